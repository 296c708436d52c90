"""The one likelihood against closed forms."""

import math
from itertools import combinations

import pytest
import torch

from trainer.reward.likelihood import LAPSE, MOST_RANKED, Likelihood, Terms, Votes, subsets

torch.set_num_threads(1)


def terms(raters: int, **changes: float) -> Terms:
    """Every term at its prior mean, but for the log parameters given."""
    flat = torch.zeros(Terms.size(raters), dtype=torch.float64)
    names = {
        "ranking_scale": 0,
        "edit_scale": 1,
        "position": 2,
        "signal_scale": 3,
        "signal_bias": 4,
        "tie": 7,
    }
    for name, value in changes.items():
        flat[2 * raters + names[name]] = value
    return Terms.unpack(flat, raters)


def log_likelihood(votes: Votes, r: list[float], given: Terms) -> float:
    weights_V = torch.ones(votes.count, dtype=torch.float64)
    return float(Likelihood(votes)(torch.tensor(r, dtype=torch.float64), given, weights_V))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def meant(p: float, outcomes: int = 2) -> float:
    """The log of what a vote has, that is meant with probability `p`."""
    return math.log(LAPSE / outcomes + (1 - LAPSE) * p)


def test_thumbs_are_logistic_in_reliability_and_leniency() -> None:
    votes = Votes(2)
    votes.thumb(0, 0, up=True)
    votes.thumb(1, 1, up=False)
    given = terms(2)
    given.leniency_U = torch.tensor([0.5, -1.0], dtype=torch.float64)
    given.reliability_U = torch.tensor([2.0, 0.0], dtype=torch.float64)
    expected = meant(sigmoid(2.0 * 0.7 + 0.5)) + meant(1 - sigmoid(-1.0))
    assert log_likelihood(votes, [0.7, 123.0], given) == pytest.approx(expected)


def test_two_replies_are_davidson() -> None:
    a, b, tie = 0.8, -0.3, 0.4
    pi_a, pi_b = math.exp(a), math.exp(b)
    total = pi_a + pi_b + math.exp(tie) * math.sqrt(pi_a * pi_b)
    for groups, weight in [
        ([[0], [1]], pi_a),
        ([[1], [0]], pi_b),
        ([[0, 1]], math.exp(tie) * math.sqrt(pi_a * pi_b)),
    ]:
        votes = Votes(1)
        votes.ranking(0, groups, first=None)
        assert log_likelihood(votes, [a, b], terms(1, tie=tie)) == pytest.approx(meant(weight / total, 3))


def test_the_reply_shown_first_is_pulled_by_g() -> None:
    votes = Votes(1)
    votes.ranking(0, [[1], [0]], first=0)
    total = math.exp(0.2 + 0.5) + math.exp(0.6) + math.exp((0.2 + 0.5 + 0.6) / 2)
    expected = meant(math.exp(0.6) / total, 3)
    assert log_likelihood(votes, [0.2, 0.6], terms(1, position=0.5)) == pytest.approx(expected)


def test_three_replies_are_davidson_luce() -> None:
    r, tie = [0.5, -0.2, 0.1], 0.3
    votes = Votes(1)
    votes.ranking(0, [[0, 2], [1]], first=None)
    worth = {
        chosen: math.exp(sum(r[i] for i in chosen) / len(chosen)) * (math.exp(tie) if len(chosen) == 2 else 1)
        for chosen in subsets(3)
    }
    assert len(worth) == 7
    expected = meant(worth[0, 2] / sum(worth.values()), 7)
    assert log_likelihood(votes, r, terms(1, tie=tie)) == pytest.approx(expected)


def test_without_ties_a_ranking_is_plackett_luce() -> None:
    r = [0.5, -0.2, 0.1]
    votes = Votes(1)
    votes.ranking(0, [[2], [0], [1]], first=None)
    given = terms(1)
    given.log_tie = torch.full_like(given.log_tie, -60.0)
    e = [math.exp(x) for x in r]
    expected = meant(e[2] / sum(e), 7) + meant(e[0] / (e[0] + e[1]), 3)
    assert log_likelihood(votes, r, given) == pytest.approx(expected)


def test_the_probabilities_of_all_outcomes_add_up_to_one() -> None:
    total = 0.0
    for groups in [
        [[0], [1], [2]], [[0], [2], [1]], [[1], [0], [2]], [[1], [2], [0]], [[2], [0], [1]], [[2], [1], [0]],
        [[0], [1, 2]], [[1], [0, 2]], [[2], [0, 1]], [[0, 1], [2]], [[0, 2], [1]], [[1, 2], [0]], [[0, 1, 2]],
    ]:  # fmt: skip
        votes = Votes(1)
        votes.ranking(0, groups, first=0)
        total += math.exp(log_likelihood(votes, [1.0, -0.5, 0.2], terms(1, tie=0.4, position=0.3)))
    assert total == pytest.approx(1.0)


def test_an_edit_is_a_pair_without_ties_and_a_demonstration() -> None:
    votes = Votes(1)
    votes.edit(0, edited=0, original=1)
    expected = meant(sigmoid(math.exp(0.7) * (0.9 - 0.4))) + meant(sigmoid(0.9))
    assert log_likelihood(votes, [0.9, 0.4], terms(1, edit_scale=0.7)) == pytest.approx(expected)


def test_a_signal_is_a_thumb_that_says_less_with_a_leniency_of_all_raters() -> None:
    votes = Votes(1)
    votes.signal(0, 0, good=True)
    votes.signal(0, 1, good=False)
    expected = meant(sigmoid(math.exp(-1) * 0.9 + 0.4)) + meant(1 - sigmoid(math.exp(-1) * 0.2 + 0.4))
    assert log_likelihood(votes, [0.9, 0.2], terms(1, signal_bias=0.4)) == pytest.approx(expected)


def test_where_no_reply_was_acceptable_each_has_a_thumb_down_too() -> None:
    bare, worse = Votes(1), Votes(1)
    bare.ranking(0, [[0], [1]], first=0)
    worse.ranking(0, [[0], [1]], first=0, acceptable=False)
    assert worse.count == 1
    more = log_likelihood(worse, [0.5, 0.1], terms(1)) - log_likelihood(bare, [0.5, 0.1], terms(1))
    assert more == pytest.approx(meant(sigmoid(-0.5)) + meant(sigmoid(-0.1)))


def test_a_vote_counts_by_its_weight_and_draw_however_many_rows_it_has() -> None:
    votes = Votes(1)
    votes.edit(0, 0, 1, weight=0.5)
    votes.thumb(0, 0, up=True)
    draws_V = torch.tensor([3.0, 0.0], dtype=torch.float64)
    value = Likelihood(votes)(torch.zeros(2, dtype=torch.float64), terms(1), draws_V)
    assert float(value) == pytest.approx(0.5 * 3 * 2 * math.log(0.5))


def test_a_long_ranking_keeps_its_best() -> None:
    votes = Votes(1)
    votes.ranking(0, [[i] for i in range(20)], first=0)
    assert max(votes.stages) == MOST_RANKED


def test_what_says_something() -> None:
    votes = Votes(1)
    votes.thumb(0, 0, up=False)
    votes.signal(0, 0, good=True)
    votes.signal(0, 1, good=False)
    votes.ranking(0, [[0, 1]], first=0)
    assert not votes.says_something()
    votes.ranking(0, [[1], [0]], first=0)
    assert votes.says_something()


def every_kind() -> Votes:
    votes = Votes(3)
    votes.thumb(0, 1, up=False)
    votes.edit(1, 2, 3, weight=0.3)
    votes.ranking(2, [[1], [0, 4], [2]], first=0, acceptable=False)
    votes.thumb(1, 4, up=True)
    votes.signal(2, 3, good=True, weight=0.7)
    return votes


def test_a_vote_pulls_as_its_likelihood_slopes() -> None:
    votes, given = every_kind(), terms(3, tie=0.3, position=0.2, edit_scale=0.7)
    likelihood = Likelihood(votes)
    r_N = torch.tensor([0.3, -0.2, 0.9, 0.1, -0.5], dtype=torch.float64)
    vote, reply, pull = likelihood.pulls(r_N, given)
    for number in range(votes.count):
        of_r = r_N.clone().requires_grad_()
        alone_V = torch.nn.functional.one_hot(torch.tensor(number), votes.count).double()
        (slope_N,) = torch.autograd.grad(likelihood(of_r, given, alone_V), of_r)
        found_N = torch.zeros(5, dtype=torch.float64)
        found_N.index_add_(0, reply[vote == number], pull[vote == number])
        assert torch.allclose(found_N, slope_N, atol=1e-12)


def test_each_vote_knows_its_rater() -> None:
    assert every_kind().rater_of_each == [0, 1, 2, 1, 2]


def test_what_ranking_replies_are_worth_only_differs_between_them() -> None:
    votes = Votes(1)
    votes.ranking(0, [[2], [0, 1], [3]], first=1)
    r, given = [0.3, -0.8, 1.1, 0.2], terms(1, tie=0.4, position=0.3, ranking_scale=0.5)
    shifted = [each + 5.0 for each in r]
    assert log_likelihood(votes, shifted, given) == pytest.approx(log_likelihood(votes, r, given))


def test_names_of_replies_do_not_matter() -> None:
    r, given = [0.3, -0.8, 1.1, 0.2, 0.6], terms(3, tie=0.4, position=0.3)
    other = [3, 0, 4, 1, 2]  # the new number of each reply
    votes, renamed = every_kind(), every_kind()
    renamed.thumbs = [(vote, rater, other[reply], up) for vote, rater, reply, up in votes.thumbs]
    renamed.signals = [(vote, rater, other[reply], good) for vote, rater, reply, good in votes.signals]
    renamed.edits = [(vote, rater, other[one], other[two]) for vote, rater, one, two in votes.edits]
    renamed.stages = {
        size: [(vote, rater, [other[each] for each in left], first, chosen)
               for vote, rater, left, first, chosen in rows]
        for size, rows in votes.stages.items()
    }  # fmt: skip
    permuted = [r[other.index(place)] for place in range(5)]
    assert log_likelihood(renamed, permuted, given) == pytest.approx(log_likelihood(votes, r, given))


def test_a_pair_slopes_as_bradley_terry_does() -> None:
    votes = Votes(1)
    votes.edit(0, 0, 1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        r_N = torch.randn(2, generator=generator, dtype=torch.float64)
        _, reply, pull = Likelihood(votes).pulls(r_N, terms(1))
        gap, worth = float(r_N[0] - r_N[1]), float(r_N[0])
        slope = lapsed_slope(gap) + lapsed_slope(worth)
        assert float(pull[reply == 0].sum()) == pytest.approx(slope, abs=1e-9)
        assert float(pull[reply == 1].sum()) == pytest.approx(-lapsed_slope(gap), abs=1e-9)


def lapsed_slope(x: float) -> float:
    """Of log(LAPSE / 2 + (1 − LAPSE)·σ(x))."""
    p = sigmoid(x)
    return (1 - LAPSE) * p * (1 - p) / (LAPSE / 2 + (1 - LAPSE) * p)


@pytest.mark.parametrize("seed", range(10))
def test_a_ranking_is_davidson_luce_counted_out(seed: int) -> None:
    """Value and slopes against every subset written out, with pulls, scales, ties and raters at random."""
    generator = torch.Generator().manual_seed(seed)
    r_N = torch.randn(5, generator=generator, dtype=torch.float64).requires_grad_()
    scale, position, reliability, *ties = torch.randn(8, generator=generator).tolist()
    groups = [[3], [0, 4], [1], [2]] if seed % 2 else [[1, 2, 3], [4, 0]]
    votes = Votes(1)
    votes.ranking(0, groups, first=4)
    given = terms(1, ranking_scale=scale, position=position)
    given.reliability_U = torch.tensor([abs(reliability)], dtype=torch.float64)
    given.log_tie = torch.tensor([0, 0, *ties, 0, 0], dtype=torch.float64)[: len(given.log_tie)]
    worth_N = math.exp(scale) * abs(reliability) * r_N + position * (torch.arange(5) == 4)
    expected, left = torch.zeros((), dtype=torch.float64), [0, 1, 2, 3, 4]
    for group in groups:
        if len(left) > 1:
            chances = {
                chosen: torch.exp(sum(worth_N[reply] for reply in chosen) / len(chosen))
                * (math.exp(given.log_tie[len(chosen)]) if len(chosen) > 1 else 1)
                for size in range(1, len(left) + 1)
                for chosen in combinations(sorted(left), size)
            }
            meant_so = chances[tuple(sorted(group))] / sum(chances.values())
            expected = expected + (LAPSE / len(chances) + (1 - LAPSE) * meant_so).log()
        left = [reply for reply in left if reply not in group]
    found = Likelihood(votes)(r_N, given, torch.ones(1, dtype=torch.float64))
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
    slopes = [torch.autograd.grad(value, r_N)[0] for value in (found, expected)]
    torch.testing.assert_close(*slopes, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("seed", range(5))
def test_every_parameter_slopes_as_its_differences_do(seed: int) -> None:
    """Of b_u, a_u, c_s, g, the ties' and the signals' terms, and of the priors, by central differences."""
    generator = torch.Generator().manual_seed(seed)
    likelihood = Likelihood(every_kind())
    r_N = torch.randn(5, generator=generator, dtype=torch.float64)
    draws_V = torch.rand(every_kind().count, generator=generator, dtype=torch.float64)
    flat_F = 0.5 * torch.randn(Terms.size(3), generator=generator, dtype=torch.float64)

    def value(flat_F: torch.Tensor) -> torch.Tensor:
        given = Terms.unpack(flat_F, 3)
        return likelihood(r_N, given, draws_V) + given.log_prior()

    (slope_F,) = torch.autograd.grad(value(flat_F.requires_grad_()), flat_F)
    step = 1e-5
    for number in range(len(flat_F)):
        aside_F = step * torch.nn.functional.one_hot(torch.tensor(number), len(flat_F)).double()
        with torch.no_grad():
            difference = float(value(flat_F + aside_F) - value(flat_F - aside_F)) / (2 * step)
        assert float(slope_F[number]) == pytest.approx(difference, abs=1e-7)
    of_votes_F = slope_F.detach() - torch.autograd.grad(Terms.unpack(flat_F, 3).log_prior(), flat_F)[0]
    unused = [*range(6 + 5, 6 + 5 + 2), *range(6 + 5 + 5, len(flat_F))]  # ties of none, one and five or more
    assert [number for number, each in enumerate(of_votes_F.tolist()) if each == 0] == unused


def test_a_ranking_that_was_shown_to_nobody_has_no_pull() -> None:
    votes = Votes(1)
    votes.ranking(0, [[0], [1]], first=None)
    pulled, bare = (log_likelihood(votes, [0.2, 0.6], terms(1, position=g)) for g in (2.0, 0.0))
    assert pulled == bare
