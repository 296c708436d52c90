"""Confidence sequences hold at all times at once, and find differences as soon as they can."""

from math import exp, log, sqrt

import numpy as np
import numpy.typing as npt
import pytest

from serving.confidence_sequence import log_evidence, radius, sample_ratio_evidence

Array = npt.NDArray[np.float64]
PEOPLE = np.unique(np.geomspace(10, 4_000, 200).astype(int))


def walks(rng: np.random.Generator, mean: float, runs: int) -> Array:
    """Returns the running means of coin flips of ±1 at PEOPLE, one row per run."""
    flips = np.where(rng.random((runs, PEOPLE[-1])) < (1 + mean) / 2, 1.0, -1.0)
    return flips.cumsum(axis=1)[:, PEOPLE - 1] / PEOPLE


@pytest.mark.parametrize("scale", [0.05, 0.3])
def test_what_is_not_there_is_seldom_ever_shown(scale: float) -> None:
    """Looking 200 times has the error of looking once."""
    bounds = np.array([radius(1 / sqrt(n), 0.05, scale) for n in PEOPLE])
    means = walks(np.random.default_rng(1), 0.0, 1_000)
    assert (means > bounds).any(axis=1).mean() <= 0.05
    fixed = 1.645 / np.sqrt(PEOPLE)
    assert (means > fixed).any(axis=1).mean() > 0.2  # of a test that may be looked at once


def test_a_difference_is_found_with_at_most_twice_the_people_of_a_test_with_one_look() -> None:
    fixed = ((1.645 + 1.645) / 0.2) ** 2
    means = walks(np.random.default_rng(2), 0.2, 500)
    bounds = np.array([radius(1 / sqrt(n), 0.05, 0.1) for n in PEOPLE])
    found = (means > bounds) & (2 * fixed >= PEOPLE)
    assert found.any(axis=1).mean() >= 0.95


def test_the_radius_is_where_the_evidence_suffices() -> None:
    half = radius(0.1, 0.01, 0.2)
    assert log_evidence(half, 0.1, 0.2) == pytest.approx(log(100))
    assert radius(0.1, 0.001, 0.2) > half > radius(0.05, 0.01, 0.2)


def test_evidence_is_a_bet_that_pays_nothing_on_average() -> None:
    """An e-value has a mean of one where there is no difference: it cannot be won by looking."""
    rng = np.random.default_rng(3)
    values = [exp(log_evidence(each, 0.1, 0.1)) for each in rng.normal(0, 0.1, 20_000)]
    assert np.mean(values) == pytest.approx(1, abs=0.05)
    assert log_evidence(-50.0, 0.1, 0.1) < -5  # far on the other side, it is still a number


def test_traffic_in_other_shares_than_known_is_found_and_right_shares_are_not() -> None:
    shares = [0.02, 0.2, 0.78]
    assert abs(sample_ratio_evidence([0, 0, 0], shares)) < 1e-9
    rng = np.random.default_rng(4)
    falsely = 0
    for _ in range(300):
        drawn = rng.choice(3, size=3_000, p=shares)
        counts = [np.bincount(drawn[:n], minlength=3).tolist() for n in range(50, 3_001, 50)]
        falsely += any(sample_ratio_evidence(each, shares) > log(20) for each in counts)
    assert falsely <= 0.05 * 300
    assert sample_ratio_evidence([40, 300, 1_660], shares) > log(1_000)  # 15% where 20% are sent
