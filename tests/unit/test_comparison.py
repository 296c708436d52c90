"""Comparisons count people, not votes, and never mix the times of a rollout."""

import numpy as np
import pytest

from serving.comparison import Comparison, between_groups, within_people

Row = tuple[str, bool, int, float]


def between(*rows: Row) -> Comparison:
    found = between_groups(*zip(*rows, strict=True))
    assert found is not None
    return found


def test_the_difference_is_that_of_the_means_and_its_error_that_of_people() -> None:
    rows = [(f"a{n}", True, 1, float(n % 4 > 0)) for n in range(40)]
    rows += [(f"b{n}", False, 1, float(n % 2)) for n in range(80)]
    found = between(*rows)
    assert found.difference == pytest.approx(0.25)
    assert (found.candidate, found.other) == (0.75, 0.5)
    assert (found.people, found.other_people, found.least_people) == (40, 80, 40)
    assert found.error == pytest.approx(np.sqrt(0.25 / 40 + 0.25 / 80), rel=0.05)


def test_a_person_in_two_stages_is_one_person() -> None:
    once = [(f"a{n}", True, 1, float(n % 2)) for n in range(20)]
    once += [(f"b{n}", False, 1, float(n % 2)) for n in range(20)]
    again = [(person, own, 2, value) for person, own, _, value in once]
    others = [(f"{person}'", own, 2, value) for person, own, _, value in once]
    assert between(*once, *again).error > 1.3 * between(*once, *others).error
    assert between(*once, *again).people == 20


def test_stages_are_compared_each_with_its_own_time() -> None:
    """Approval rises for everybody while the candidate's share grows: the candidate has no part in that."""
    rows = [(f"a{n}", True, 1, 0.0) for n in range(5)] + [(f"b{n}", False, 1, 0.0) for n in range(95)]
    rows += [(f"c{n}", True, 2, 1.0) for n in range(50)] + [(f"d{n}", False, 2, 1.0) for n in range(50)]
    found = between(*rows)
    assert found.candidate - found.other > 0.5
    assert found.difference == pytest.approx(0)


def test_a_few_who_agree_are_not_certain() -> None:
    few = between(*[(f"a{n}", True, 1, 1.0) for n in range(8)], *[(f"b{n}", False, 1, 0.0) for n in range(8)])
    assert few.difference == 1
    assert few.difference / few.error <= np.sqrt(8 + 8)
    where_most_like_it = [(f"b{n}", False, 1, float(n % 10 > 0)) for n in range(300)]
    ten = between(*[(f"a{n}", True, 1, 1.0) for n in range(10)], *where_most_like_it)
    assert ten.difference / ten.error < 1.2


def test_without_people_on_both_sides_there_is_no_comparison() -> None:
    assert between_groups([], [], [], []) is None
    assert between_groups(["a", "b"], [True, False], [1, 2], [1.0, 0.0]) is None
    assert within_people([], []) is None


def test_pairs_count_each_person_once() -> None:
    fan = within_people(["fan"] * 50 + [f"p{n}" for n in range(9)], [1.0] * 50 + [0.0] * 9, even=0.5)
    assert fan is not None
    assert (fan.people, fan.candidate) == (10, pytest.approx(0.1))
    assert fan.difference == pytest.approx(-0.4)
    assert fan.error == pytest.approx(0.5 / np.sqrt(10))
