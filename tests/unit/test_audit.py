"""What the checker behind the fault tests notices."""

from typing import Literal

from feedback.log import Entry
from tests.audit import Told, enders, log_problems, out_of_order
from tests.crowd import ChatWatch
from tests.events import event
from tests.faults import Fault, Report


def told(kind: Literal["recorded", "retracted"], name: str, slot: str = "thumb:0") -> Told:
    return Told(kind, f"fb_{name}", "conv-1", "chatcmpl-1", slot, {})


def entry(name: str, kind: str = "recorded") -> Entry:
    return Entry(0, "0:0", event(name).model_copy(update={"kind": kind, "event_id": f"{kind}-{name}"}))


def test_a_vote_is_ended_by_the_next_one_for_its_slot_or_by_its_retraction() -> None:
    first, other, second = told("recorded", "a"), told("recorded", "b", "edit:0"), told("recorded", "c")
    taken_back, again = told("retracted", "c"), told("recorded", "d")

    found = enders([first, other, second, taken_back, again])

    assert found == {"fb_a": second, "fb_c": taken_back}


def test_what_is_given_again_is_in_order_and_what_comes_too_early_or_not_at_all_is_not() -> None:
    assert not out_of_order("abc", "aababc")
    assert not out_of_order("abc", "cabc")
    assert out_of_order("abc", "acb")
    assert out_of_order("abc", "ab")


def test_a_log_is_held_to_what_people_were_told() -> None:
    votes = [told("recorded", "a"), told("recorded", "b"), told("retracted", "b")]
    good = [entry("a"), entry("b"), entry("b", "retracted")]

    assert log_problems(votes, good) == []
    assert log_problems(votes, [*good, *good[1:]]) == []
    assert "out of order" in log_problems(votes, [good[0], good[2], good[1]])[0]
    assert "nobody was told of" in log_problems(votes, [*good, entry("c")])[0]


def test_nothing_that_was_asked_before_a_fault_says_when_the_service_is_back() -> None:
    watch = ChatWatch(["http://127.0.0.1:1"], "watch")
    watch.answered = [(1.0, 1.5), (1.9, 4.0), (4.1, 4.5)]

    assert watch.back_after(2.0) == 2.5
    assert watch.back_after(5.0) == float("inf")


def test_a_fault_that_another_followed_too_soon_does_not_say_how_long_it_takes_to_be_back() -> None:
    followed = Fault("kill", "engine", 0.0, 14.0, 0.1)
    later, other = Fault("kill", "engine", 5.0, 9.0, 0.2), Fault("kill", "relay", 20.0, 30.0, 30.0)
    report = Report([followed, later, other], 0, [])

    assert report.back(1, "chat", ["engine", "relay"]) == 30.0
    assert report.back(1, "chat", ["engine"]) == 14.0
    assert report.back_if_let(1, "chat", ["engine"]) == 9.0
    assert report.back_if_let(1, "chat", ["engine", "relay"]) == 30.0
