"""People's votes on a canary promote it, roll it back, or end it."""

import random
from collections import Counter
from datetime import timedelta

import pytest

from schemas.policies import BASE
from serving.canary import LOOKS, MARGIN, MAX_AGE, REPLACEABLE_AFTER, Arm, Canary, Judged

LIVE, NEW = "p1-aaaaaa", "p2-bbbbbb"
SHARE = 0.3


def canary(*judged: tuple[str, float, int], age: timedelta = timedelta(hours=1)) -> Canary:
    """Returns a canary with (policy, approval, count) people with a conversation each, mixed evenly."""
    each = [
        (place / count, Judged(policy, f"{policy} {place}", liked))
        for policy, liked, count in judged
        for place in range(count)
    ]
    return Canary(NEW, age, [found for _, found in sorted(each, key=lambda pair: pair[0])])


def action(found: Canary, *, newer: bool = False, live: str = LIVE) -> str:
    return found.decide(live, newer=newer)[0]


def test_a_canary_that_people_like_is_promoted_and_one_that_they_do_not_is_rolled_back() -> None:
    better = canary((NEW, 1.0, 10), (LIVE, 0.0, 24))
    assert better.decide(LIVE, newer=False) == (
        "promote",
        f"people like it no less than {LIVE}: 100% of 10 people against 0% of 22 people",
    )
    assert action(canary((NEW, 0.0, 10), (LIVE, 1.0, 24))) == "rollback"


def test_before_the_first_look_nothing_is_decided() -> None:
    assert action(canary((NEW, 0.0, LOOKS[0] - 1), (LIVE, 1.0, 30))) == "wait"
    assert action(canary((NEW, 1.0, LOOKS[0])), newer=True) == "wait"  # there is nothing to compare with


def test_votes_after_a_look_wait_for_the_next() -> None:
    """A canary is judged four times, however often its votes are counted."""

    def disliked(count: int) -> list[Judged]:
        return [Judged(NEW, f"later {number}", 0.0) for number in range(count)]

    first = canary((NEW, 0.8, 10), (LIVE, 0.8, 24)).judged
    assert action(Canary(NEW, timedelta(), [*first, *disliked(9)])) == "wait"
    assert action(Canary(NEW, timedelta(), [*first, *disliked(10)])) == "rollback"


def test_a_canary_worse_than_the_base_is_rolled_back_whatever_the_live_policy_is() -> None:
    found = canary((NEW, 0.1, 40), (LIVE, 0.1, 90), (BASE, 0.9, 30))
    assert found.decide(LIVE, newer=False)[0] == "rollback"
    assert BASE in found.decide(LIVE, newer=False)[1]


def test_the_base_may_be_what_is_live() -> None:
    assert action(canary((NEW, 1.0, 10), (BASE, 0.2, 24)), live=BASE) == "promote"


def test_what_shows_nothing_makes_room_or_ends() -> None:
    undecided = canary((NEW, 0.5, REPLACEABLE_AFTER), (LIVE, 0.5, 47))
    assert action(undecided) == "wait"
    assert action(undecided, newer=True) == "end"
    assert action(canary((NEW, 0.5, LOOKS[-1]), (LIVE, 0.5, 190))) == "end"
    assert action(canary(age=MAX_AGE / 2), newer=True) == "wait"
    assert action(canary(age=2 * MAX_AGE)) == "end"


def outcomes(worse: float, runs: int = 400) -> Counter[str]:
    """Returns how canaries end that people like by so much less than the live policy, which half of them
    like."""
    rng = random.Random(f"canaries {worse}")
    found: Counter[str] = Counter()
    for _ in range(runs):
        judged: list[Judged] = []
        ended = "wait"
        while ended == "wait":
            new = rng.random() < SHARE
            liked = rng.random() < 0.5 - (worse if new else 0.0)
            judged.append(Judged(NEW if new else LIVE, str(len(judged)), float(liked)))
            own = sum(each.policy == NEW for each in judged)
            if new and own in LOOKS:
                ended = action(Canary(NEW, timedelta(), judged))
        found[ended] += 1
    return found


@pytest.mark.parametrize("worse", [0.2, 0.4])
def test_worse_canaries_do_not_go_live(worse: float) -> None:
    found = outcomes(worse)
    assert found["promote"] <= 0.05 * found.total()
    assert found["rollback"] >= 0.7 * found.total()


@pytest.mark.slow
def test_equal_canaries_are_seldom_rolled_back_and_better_ones_go_live() -> None:
    equal, better = outcomes(0.0), outcomes(-0.3)
    assert equal["rollback"] <= 0.1 * equal.total()
    assert better["promote"] >= 0.95 * better.total()


@pytest.mark.slow
def test_a_loss_as_large_as_the_margin_is_promoted_one_time_in_twenty() -> None:
    found = outcomes(MARGIN)
    assert found["promote"] <= 0.08 * found.total()


def test_one_person_is_one_however_often_they_vote() -> None:
    """Ten conversations of one person say as much about the others as one."""
    fan = [Judged(NEW, "fan", 1.0)] * 10
    others = [Judged(LIVE, str(number), 0.0) for number in range(24)]
    assert action(Canary(NEW, timedelta(), [*others, *fan])) == "wait"
    many = [Judged(NEW, f"fan {number}", 1.0) for number in range(10)]
    assert action(Canary(NEW, timedelta(), [*others, *many])) == "promote"


def test_a_few_people_who_agree_are_not_certain() -> None:
    assert Arm(2, 2.0).gain(Arm(2, 0.0), -2.24) < 0 < Arm(30, 30.0).gain(Arm(30, 0.0), -2.24)
