"""Standard errors agree with what repeated samples show."""

import random
import statistics

import pytest

from trainer.evaluation.estimate import Estimate, increase_of_share, jackknife


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    rng = random.Random(0)
    values = [rng.gauss(3, 2) for _ in range(50)]
    found = jackknife(statistics.fmean, [[value] for value in values])
    assert found.value == pytest.approx(statistics.fmean(values))
    assert found.error == pytest.approx(statistics.stdev(values) / 50**0.5)


def test_rows_of_a_cluster_count_once() -> None:
    rng = random.Random(0)
    values = [rng.gauss(0, 1) for _ in range(40)]
    alone = jackknife(statistics.fmean, [[value] for value in values])
    doubled = jackknife(statistics.fmean, [[value, value] for value in values])
    assert doubled.error == pytest.approx(alone.error)
    assert jackknife(statistics.fmean, [[1.0, 2.0, 3.0]]).error == pytest.approx(1 / 3**0.5)
    assert jackknife(statistics.fmean, [[1.0]]) == Estimate(1.0, 0.0)


def test_two_shares_differ_by_chance_as_much_as_the_error_says() -> None:
    rng = random.Random(1)

    def drawn() -> Estimate:
        return increase_of_share((sum(rng.random() < 0.2 for _ in range(60)), 60),
                                 (sum(rng.random() < 0.2 for _ in range(30)), 30))  # fmt: skip

    found = [drawn() for _ in range(2000)]
    spread = statistics.stdev(each.value for each in found)
    assert statistics.fmean(each.error for each in found) == pytest.approx(spread, rel=0.1)
    assert increase_of_share((0, 10), (10, 10)).value == 1
    assert increase_of_share((10, 10), (10, 10)).error > 0


def test_bounds_and_the_smallest_detectable_difference() -> None:
    gain = Estimate(0.5, 0.2)
    assert gain.lower == pytest.approx(0.5 - 1.645 * 0.2)
    assert gain.detectable == pytest.approx(2.487 * 0.2)
    assert gain - Estimate(0.1, 0.15) == Estimate(0.4, 0.25)
    assert gain * -2 == Estimate(-1.0, 0.4)
