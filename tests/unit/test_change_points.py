"""Raters of a cluster turned where their parts in it come after their others: the test is exact."""

import random
from itertools import combinations, product

import pytest

from trainer.reward.change_points import OWN_ERROR, find_turned, late_chance

TURNED = [False] * 6 + [True] * 4


def by_counting(orders: list[list[bool]]) -> float:
    """Returns the share of all orders in which the parts in the cluster come as late as in these."""
    late = sum(place for order in orders for place, inside in enumerate(order) if inside)
    choices = [combinations(range(len(order)), sum(order)) for order in orders]
    sums = [sum(map(sum, chosen)) for chosen in product(*choices)]
    return sum(each >= late for each in sums) / len(sums)


@pytest.mark.parametrize(
    "orders",
    [
        [[False, False, True]],
        [[False, True, False, True]],
        [[True, False]],
        [[True, True, True]],
        [[False, True, True, False, True], [True, False, True], [True]],
        [[False, False, True, True], [False, True], [False, False, True]],
    ],
)
def test_the_chance_is_that_of_all_orders(orders: list[list[bool]]) -> None:
    assert late_chance(orders) == pytest.approx(by_counting(orders))


def test_raters_who_turn_together_are_found_and_not_who_is_beside_them_by_chance() -> None:
    beside = [True, False, True, False, False, True, False, False, False, False]
    assert find_turned({**dict.fromkeys(range(6), TURNED), 6: beside}) == set(range(6))
    assert find_turned({0: TURNED}) == set()  # one alone may be chance


@pytest.mark.parametrize("order", [TURNED[::-1], [True] * 10, [True, False] * 5])
def test_who_votes_as_ever_or_otherwise_before_has_not_turned(order: list[bool]) -> None:
    assert find_turned(dict.fromkeys(range(20), order)) == set()


def test_hardly_any_honest_person_is_taken_for_one_who_turned() -> None:
    rng = random.Random(5)
    held = beside_attackers = 0
    for _ in range(500):
        orders = {}
        for rater in range(4):
            share = rng.random()
            orders[rater] = [rng.random() < share for _ in range(rng.randrange(1, 14))]
        held += len(find_turned(orders))
        attacked = find_turned({**orders, **dict.fromkeys(range(10, 30), TURNED)})
        assert attacked >= set(range(10, 30))
        beside_attackers += len(attacked & set(range(4)))
    assert held == 0
    assert beside_attackers <= OWN_ERROR * 2_000
