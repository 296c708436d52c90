"""A pair is asked for in proportion to what its answer would say, and the probability is recorded."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.pairs import CHOICES, LOOKED_AT, MOST_LIKELY, PairChooser
from serving.person_weights import Values, information

TEXTS = ["a", "b", "c", "d"]


def values(*spread: float) -> Values:
    """Returns the values of replies about which two members disagree by so much."""
    return np.array([[[each], [-each]] for each in spread])


def test_the_pair_on_which_the_members_disagree_is_chosen() -> None:
    chooser = PairChooser()
    decisions = [chooser.decide("p", TEXTS, values(0.0, 0.1, 1.0, -1.0)) for _ in range(400)]
    asked = [each for each in decisions if len(each.choices) == 2]
    assert {tuple(sorted(each.choices)) for each in asked} == {(2, 3)}
    assert {tuple(each.choices) for each in asked} == {(2, 3), (3, 2)}  # in random order
    assert all(list(each.choices) == [0] for each in decisions if each not in asked)
    assert len(asked) / len(decisions) == pytest.approx(1 / LOOKED_AT, abs=0.1)


def test_what_teaches_more_is_asked_about_more_often_and_never_for_certain() -> None:
    chooser = PairChooser()
    for _ in range(200):
        chooser.decide("p", TEXTS, values(0.0, 0.1, 0.3, -0.3))
    usual = chooser.decide("p", TEXTS, values(0.0, 0.1, 0.3, -0.3))
    little = chooser.decide("p", TEXTS, values(0.0, 0.0, 0.05, -0.05))
    much = chooser.decide("p", TEXTS, values(0.0, 0.0, 2.0, -2.0))
    assert little.propensity < 0.05
    assert usual.propensity == pytest.approx(1 / LOOKED_AT, abs=0.02)
    assert much.propensity == MOST_LIKELY
    other = chooser.decide("another", TEXTS, values(0.0, 0.0, 0.05, -0.05))
    assert other.propensity == 1 / LOOKED_AT  # what is usual is by project


@pytest.mark.parametrize("scored", [True, False])
def test_equal_replies_are_no_pair(scored: bool) -> None:
    found = PairChooser().decide("p", ["same"] * CHOICES, values(1.0, -1.0, 2.0, 0.0) if scored else None)
    assert found.as_json() == {"asked": False, "propensity": 0.0, "information": None}
    assert list(found.choices) == [0]


def test_without_scores_the_first_two_that_differ_are_asked_about() -> None:
    decisions = [PairChooser().decide("p", ["x", "x", "y", "z"], None) for _ in range(200)]
    assert {each.propensity for each in decisions} == {1 / LOOKED_AT}
    assert {tuple(sorted(each.choices)) for each in decisions} == {(0,), (0, 2)}


@given(st.lists(st.lists(st.floats(-50, 50), min_size=3, max_size=3), min_size=CHOICES, max_size=CHOICES))
def test_a_decision_is_always_among_the_replies(table: list[list[float]]) -> None:
    values_NMC = np.array(table)[:, :, None]
    found = PairChooser().decide("p", TEXTS, values_NMC)
    assert 0 <= found.propensity <= MOST_LIKELY
    assert set(found.choices) <= set(range(CHOICES))
    gains = [information(one - other) for one in values_NMC for other in values_NMC]
    assert found.information == pytest.approx(max(gains))
