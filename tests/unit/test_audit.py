"""The audit of the fault tests finds lost, invented, repeated and reordered votes."""

from typing import Literal

from feedback.log import Entry
from tests.audit import Acknowledgement, log_problems, out_of_order, superseding
from tests.crowd import ChatWatch
from tests.events import event
from tests.faults import Fault, Report


def acknowledged(kind: Literal["recorded", "retracted"], name: str, slot: str = "thumb:0") -> Acknowledgement:
    return Acknowledgement(kind, f"fb_{name}", "conv-1", "chatcmpl-1", slot, {})


def entry(name: str, kind: str = "recorded") -> Entry:
    return Entry(0, "0:0", event(name).model_copy(update={"kind": kind, "event_id": f"{kind}-{name}"}))


def test_a_vote_is_superseded_by_the_next_one_on_its_slot_or_by_its_retraction() -> None:
    first, other = acknowledged("recorded", "a"), acknowledged("recorded", "b", "edit:0")
    second, retraction = acknowledged("recorded", "c"), acknowledged("retracted", "c")
    again = acknowledged("recorded", "d")

    found = superseding([first, other, second, retraction, again])

    assert found == {"fb_a": second, "fb_c": retraction}


def test_repeated_events_are_in_order_and_early_or_missing_ones_are_not() -> None:
    assert not out_of_order("abc", "aababc")
    assert not out_of_order("abc", "cabc")
    assert out_of_order("abc", "acb")
    assert out_of_order("abc", "ab")


def test_the_log_is_compared_with_the_acknowledgements() -> None:
    votes = [acknowledged("recorded", "a"), acknowledged("recorded", "b"), acknowledged("retracted", "b")]
    good = [entry("a"), entry("b"), entry("b", "retracted")]

    assert log_problems(votes, good) == []
    assert log_problems(votes, [*good, *good[1:]]) == []
    assert "out of order" in log_problems(votes, [good[0], good[2], good[1]])[0]
    assert "without acknowledgement" in log_problems(votes, [*good, entry("c")])[0]


def test_a_request_sent_before_a_fault_says_nothing_of_the_recovery() -> None:
    watch = ChatWatch(["http://127.0.0.1:1"], "watch")
    watch.answered = [(1.0, 1.5), (1.9, 4.0), (4.1, 4.5)]

    assert watch.recovery_after(2.0) == 2.5
    assert watch.recovery_after(5.0) == float("inf")


def test_a_fault_that_another_one_followed_at_once_says_nothing_of_the_recovery() -> None:
    followed = Fault("kill", "engine", 0.0, 14.0, 0.1)
    later, other = Fault("kill", "engine", 5.0, 9.0, 0.2), Fault("kill", "relay", 20.0, 30.0, 30.0)
    report = Report([followed, later, other], 0, [])

    assert report.recovery(1, "chat", ["engine", "relay"]) == 30.0
    assert report.recovery(1, "chat", ["engine"]) == 14.0
    assert report.undisturbed_recovery(1, "chat", ["engine"]) == 9.0
    assert report.undisturbed_recovery(1, "chat", ["engine", "relay"]) == 30.0
