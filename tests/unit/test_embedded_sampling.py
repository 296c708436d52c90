"""Worked examples of sampling: temperature, top-p, top-k, min-p, penalties."""

from collections import Counter

import pytest
import torch

from serving.embedded.sampling import Sampling, sample

HALF, THIRD, SIXTH = 1 / 2, 1 / 3, 1 / 6
LOGITS = torch.tensor([THIRD, HALF, SIXTH]).log()


def drawn(
    setting: Sampling, draw: float, counts: dict[int, int] | None = None, prompt: tuple[int, ...] = ()
) -> int:
    return int(sample(LOGITS[None], [setting], [list(prompt)], [Counter(counts or {})], [draw])[0])


def kept(setting: Sampling) -> set[int]:
    return {drawn(setting, draw / 100) for draw in range(100)}


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


@pytest.mark.parametrize(
    ("top_p", "nucleus"), [(1e-9, {1}), (0.4, {1}), (0.5, {1}), (0.6, {0, 1}), (0.9, {0, 1, 2})]
)
def test_top_p_keeps_the_fewest_that_reach_it(top_p: float, nucleus: set[int]) -> None:
    assert kept(Sampling(top_p=top_p)) == nucleus


@pytest.mark.parametrize(("top_k", "likeliest"), [(1, {1}), (2, {0, 1}), (3, {0, 1, 2}), (9, {0, 1, 2})])
def test_top_k_keeps_the_likeliest(top_k: int, likeliest: set[int]) -> None:
    assert kept(Sampling(top_k=top_k)) == likeliest


@pytest.mark.parametrize(("min_p", "likely"), [(1.0, {1}), (0.6, {0, 1}), (0.3, {0, 1, 2})])
def test_min_p_keeps_what_is_nearly_as_likely_as_the_likeliest(min_p: float, likely: set[int]) -> None:
    assert kept(Sampling(min_p=min_p)) == likely


def test_top_p_counts_the_mass_that_top_k_leaves() -> None:
    """Of the two likeliest, token 1 has 0.6: more than 0.55, where it has 0.5 of all three."""
    assert kept(Sampling(top_k=2, top_p=0.55)) == {1}
    assert kept(Sampling(top_p=0.55)) == {0, 1}


def test_what_is_left_is_drawn_in_proportion() -> None:
    """Token 0 has 0.4 of what top_k leaves."""
    assert [drawn(Sampling(top_k=2), draw) for draw in (0.39, 0.41)] == [0, 1]


@pytest.mark.parametrize("setting", [Sampling(top_p=0.9), Sampling(min_p=0.01), Sampling(top_k=3_000)])
@pytest.mark.parametrize("spread", [0.01, 1.0, 8.0])
def test_a_large_vocabulary_is_cut_where_sorting_all_of_it_would(setting: Sampling, spread: float) -> None:
    """However many tokens are left: all but a few, or a handful."""
    torch.manual_seed(1)
    logits = torch.randn(20_000, dtype=torch.float64) * spread
    ordered, ids = logits.softmax(0).sort(descending=True)
    before = ordered.cumsum(0) - ordered
    stays = before < setting.top_p
    stays &= ordered >= setting.min_p * ordered[0]
    stays &= torch.arange(20_000) < (setting.top_k or 20_000)
    expected = torch.zeros_like(logits).scatter(0, ids, ordered * stays)
    cumulative = expected.cumsum(0) / expected.sum()
    for draw in (0.0, 0.25, 0.5, 0.75, 0.999):
        token = int(sample(logits.float()[None], [setting], [[]], [Counter()], [draw])[0])
        assert expected[token] > 0
        assert cumulative[token] - expected[token] / expected.sum() - 1e-4 <= draw <= cumulative[token] + 1e-4


def test_the_presence_penalty_is_paid_once() -> None:
    """Token 1 leads token 0 by ln 1.5 = 0.405."""
    greedy = {"temperature": 0.0}
    assert drawn(Sampling(**greedy, presence_penalty=0.4), 0, {1: 9}) == 1
    assert drawn(Sampling(**greedy, presence_penalty=0.41), 0, {1: 1}) == 0


def test_the_frequency_penalty_is_paid_each_time() -> None:
    setting = Sampling(temperature=0, frequency_penalty=0.21)
    assert drawn(setting, 0, {1: 1}) == 1
    assert drawn(setting, 0, {1: 2}) == 0


def test_the_repetition_penalty_counts_the_prompt_too() -> None:
    """Token 1's logit, -0.69, falls to -1.04 and to -1.39, where token 0 is at -1.10."""
    assert drawn(Sampling(temperature=0, repetition_penalty=1.5), 0, {1: 9}) == 1
    assert drawn(Sampling(temperature=0, repetition_penalty=2.0), 0, {1: 1}) == 0
    assert drawn(Sampling(temperature=0, repetition_penalty=2.0), 0, prompt=(1,)) == 0
    assert drawn(Sampling(temperature=0, repetition_penalty=2.0), 0, {1: 1}, prompt=(0, 1)) == 1


def test_a_row_does_not_see_its_neighbours() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 50)
    settings = [
        Sampling(
            temperature=[0.0, 0.7, 1.5][i % 3],
            top_p=[1.0, 0.8][i % 2],
            top_k=[0, 20, 0, 7, 0, 0][i],
            repetition_penalty=[1.0, 1.3][i % 2],
            presence_penalty=i % 2,
        )
        for i in range(6)
    ]
    prompts = [[i, i + 7] for i in range(6)]
    counts = [Counter({i: 2, i + 1: 1}) for i in range(6)]
    draws = [0.1, 0.9, 0.5, 0.3, 0.7, 0.2]
    alone = [
        int(sample(logits[i : i + 1], *([each[i]] for each in (settings, prompts, counts, draws))))
        for i in range(6)
    ]
    assert sample(logits, settings, prompts, counts, draws).tolist() == alone


def test_draws_follow_the_distribution() -> None:
    """10,000 evenly spaced draws land on each token in proportion to its probability."""
    draws = [i / 10_000 for i in range(10_000)]
    size = len(draws)
    tokens = sample(LOGITS.expand(size, -1), [Sampling()] * size, [[]] * size, [Counter()] * size, draws)
    shares = torch.bincount(tokens, minlength=3) / size
    assert shares.tolist() == pytest.approx([THIRD, HALF, SIXTH], abs=1e-3)
