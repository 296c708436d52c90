"""Worked examples of sampling: temperature, top-p, penalties."""

from collections import Counter

import pytest
import torch

from serving.embedded.sampling import Sampling, sample

HALF, THIRD, SIXTH = 1 / 2, 1 / 3, 1 / 6
LOGITS = torch.tensor([THIRD, HALF, SIXTH]).log()


def drawn(setting: Sampling, draw: float, counts: dict[int, int] | None = None) -> int:
    return int(sample(LOGITS[None], [setting], [Counter(counts or {})], [draw])[0])


@pytest.mark.parametrize(
    ("draw", "token"), [(0.0, 0), (0.33, 0), (0.34, 1), (0.83, 1), (0.84, 2), (0.9999, 2)]
)
def test_a_draw_cuts_the_cumulative_distribution(draw: float, token: int) -> None:
    assert drawn(Sampling(), draw) == token


def test_temperature_zero_takes_the_likeliest() -> None:
    assert {drawn(Sampling(temperature=0), draw / 10) for draw in range(10)} == {1}


def test_temperature_flattens() -> None:
    """At temperature 1e6 each of the three has a third: the cuts are at 1/3 and 2/3."""
    assert [drawn(Sampling(temperature=1e6), draw) for draw in (0.32, 0.35, 0.65, 0.68)] == [0, 1, 1, 2]


@pytest.mark.parametrize(("top_p", "kept"), [(0.4, {1}), (0.5, {1}), (0.6, {0, 1}), (0.9, {0, 1, 2})])
def test_top_p_keeps_the_fewest_that_reach_it(top_p: float, kept: set[int]) -> None:
    assert {drawn(Sampling(top_p=top_p), draw / 100) for draw in range(100)} == kept


def test_the_presence_penalty_is_paid_once() -> None:
    """Token 1 leads token 0 by ln 1.5 = 0.405."""
    greedy = {"temperature": 0.0}
    assert drawn(Sampling(**greedy, presence_penalty=0.4), 0, {1: 9}) == 1
    assert drawn(Sampling(**greedy, presence_penalty=0.41), 0, {1: 1}) == 0


def test_the_frequency_penalty_is_paid_each_time() -> None:
    setting = Sampling(temperature=0, frequency_penalty=0.21)
    assert drawn(setting, 0, {1: 1}) == 1
    assert drawn(setting, 0, {1: 2}) == 0


def test_a_row_does_not_see_its_neighbours() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 50)
    settings = [
        Sampling(temperature=[0.0, 0.7, 1.5][i % 3], top_p=[1.0, 0.8][i % 2], presence_penalty=i % 2)
        for i in range(6)
    ]
    counts = [Counter({i: 2, i + 1: 1}) for i in range(6)]
    draws = [0.1, 0.9, 0.5, 0.3, 0.7, 0.2]
    alone = [
        int(sample(logits[i : i + 1], settings[i : i + 1], counts[i : i + 1], draws[i : i + 1]))
        for i in range(6)
    ]
    assert sample(logits, settings, counts, draws).tolist() == alone


def test_draws_follow_the_distribution() -> None:
    """10,000 evenly spaced draws land on each token in proportion to its probability."""
    draws = [i / 10_000 for i in range(10_000)]
    size = len(draws)
    tokens = sample(LOGITS.expand(size, -1), [Sampling()] * size, [Counter()] * size, draws)
    shares = torch.bincount(tokens, minlength=3) / size
    assert shares.tolist() == pytest.approx([THIRD, HALF, SIXTH], abs=1e-3)
