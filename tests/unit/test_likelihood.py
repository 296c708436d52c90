"""The likelihood is compared with closed forms."""

import math
from itertools import combinations

import pytest
import torch

from trainer.reward.likelihood import LAPSE_RATE, MAX_RANKED, Likelihood, NuisanceParameters, Votes, subsets

torch.set_num_threads(1)


def nuisance(raters: int, **changes: float) -> NuisanceParameters:
    """Every nuisance parameter at its prior mean, except the log parameters given."""
    flat = torch.zeros(NuisanceParameters.size(raters), dtype=torch.float64)
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
    return NuisanceParameters.unpack(flat, raters)


def log_likelihood(votes: Votes, r: list[float], given: NuisanceParameters) -> float:
    weights_V = torch.ones(votes.count, dtype=torch.float64)
    return float(Likelihood(votes)(torch.tensor(r, dtype=torch.float64), given, weights_V))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def log_with_lapses(p: float, outcomes: int = 2) -> float:
    """The log-probability of a vote that has probability `p` if it is no lapse."""
    return math.log(LAPSE_RATE / outcomes + (1 - LAPSE_RATE) * p)


def test_thumbs_are_logistic_in_reliability_and_leniency() -> None:
    votes = Votes(2)
    votes.thumb(0, 0, up=True)
    votes.thumb(1, 1, up=False)
    given = nuisance(2)
    given.leniency_U = torch.tensor([0.5, -1.0], dtype=torch.float64)
    given.reliability_U = torch.tensor([2.0, 0.0], dtype=torch.float64)
    expected = log_with_lapses(sigmoid(2.0 * 0.7 + 0.5)) + log_with_lapses(1 - sigmoid(-1.0))
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
        assert log_likelihood(votes, [a, b], nuisance(1, tie=tie)) == pytest.approx(
            log_with_lapses(weight / total, 3)
        )


def test_the_reply_shown_first_has_the_position_bias() -> None:
    votes = Votes(1)
    votes.ranking(0, [[1], [0]], first=0)
    total = math.exp(0.2 + 0.5) + math.exp(0.6) + math.exp((0.2 + 0.5 + 0.6) / 2)
    expected = log_with_lapses(math.exp(0.6) / total, 3)
    assert log_likelihood(votes, [0.2, 0.6], nuisance(1, position=0.5)) == pytest.approx(expected)


def test_three_replies_are_davidson_luce() -> None:
    r, tie = [0.5, -0.2, 0.1], 0.3
    votes = Votes(1)
    votes.ranking(0, [[0, 2], [1]], first=None)
    worth = {
        chosen: math.exp(sum(r[i] for i in chosen) / len(chosen)) * (math.exp(tie) if len(chosen) == 2 else 1)
        for chosen in subsets(3)
    }
    assert len(worth) == 7
    expected = log_with_lapses(worth[0, 2] / sum(worth.values()), 7)
    assert log_likelihood(votes, r, nuisance(1, tie=tie)) == pytest.approx(expected)


def test_without_ties_a_ranking_is_plackett_luce() -> None:
    r = [0.5, -0.2, 0.1]
    votes = Votes(1)
    votes.ranking(0, [[2], [0], [1]], first=None)
    given = nuisance(1)
    given.log_tie = torch.full_like(given.log_tie, -60.0)
    e = [math.exp(x) for x in r]
    expected = log_with_lapses(e[2] / sum(e), 7) + log_with_lapses(e[0] / (e[0] + e[1]), 3)
    assert log_likelihood(votes, r, given) == pytest.approx(expected)


def test_the_probabilities_of_all_outcomes_add_up_to_one() -> None:
    total = 0.0
    for groups in [
        [[0], [1], [2]], [[0], [2], [1]], [[1], [0], [2]], [[1], [2], [0]], [[2], [0], [1]], [[2], [1], [0]],
        [[0], [1, 2]], [[1], [0, 2]], [[2], [0, 1]], [[0, 1], [2]], [[0, 2], [1]], [[1, 2], [0]], [[0, 1, 2]],
    ]:  # fmt: skip
        votes = Votes(1)
        votes.ranking(0, groups, first=0)
        total += math.exp(log_likelihood(votes, [1.0, -0.5, 0.2], nuisance(1, tie=0.4, position=0.3)))
    assert total == pytest.approx(1.0)


def test_an_edit_is_a_pair_without_ties_and_a_demonstration() -> None:
    votes = Votes(1)
    votes.edit(0, edited=0, original=1)
    expected = log_with_lapses(sigmoid(math.exp(0.7) * (0.9 - 0.4))) + log_with_lapses(sigmoid(0.9))
    assert log_likelihood(votes, [0.9, 0.4], nuisance(1, edit_scale=0.7)) == pytest.approx(expected)


def test_a_signal_is_a_thumb_with_a_smaller_scale_and_a_shared_bias() -> None:
    votes = Votes(1)
    votes.signal(0, 0, good=True)
    votes.signal(0, 1, good=False)
    expected = log_with_lapses(sigmoid(math.exp(-1) * 0.9 + 0.4)) + log_with_lapses(
        1 - sigmoid(math.exp(-1) * 0.2 + 0.4)
    )
    assert log_likelihood(votes, [0.9, 0.2], nuisance(1, signal_bias=0.4)) == pytest.approx(expected)


def test_where_no_reply_was_acceptable_each_has_a_thumb_down_too() -> None:
    bare, worse = Votes(1), Votes(1)
    bare.ranking(0, [[0], [1]], first=0)
    worse.ranking(0, [[0], [1]], first=0, acceptable=False)
    assert worse.count == 1
    more = log_likelihood(worse, [0.5, 0.1], nuisance(1)) - log_likelihood(bare, [0.5, 0.1], nuisance(1))
    assert more == pytest.approx(log_with_lapses(sigmoid(-0.5)) + log_with_lapses(sigmoid(-0.1)))


def test_a_vote_counts_by_its_weight_and_draw_however_many_rows_it_has() -> None:
    votes = Votes(1)
    votes.edit(0, 0, 1, weight=0.5)
    votes.thumb(0, 0, up=True)
    bootstrap_V = torch.tensor([3.0, 0.0], dtype=torch.float64)
    value = Likelihood(votes)(torch.zeros(2, dtype=torch.float64), nuisance(1), bootstrap_V)
    assert float(value) == pytest.approx(0.5 * 3 * 2 * math.log(0.5))


def test_a_long_ranking_is_truncated_to_its_best() -> None:
    votes = Votes(1)
    votes.ranking(0, [[i] for i in range(20)], first=0)
    assert max(votes.stages) == MAX_RANKED


def test_equal_votes_are_not_informative() -> None:
    votes = Votes(1)
    votes.thumb(0, 0, up=False)
    votes.signal(0, 0, good=True)
    votes.signal(0, 1, good=False)
    votes.ranking(0, [[0, 1]], first=0)
    assert not votes.is_informative()
    votes.ranking(0, [[1], [0]], first=0)
    assert votes.is_informative()


def every_kind() -> Votes:
    votes = Votes(3)
    votes.thumb(0, 1, up=False)
    votes.edit(1, 2, 3, weight=0.3)
    votes.ranking(2, [[1], [0, 4], [2]], first=0, acceptable=False)
    votes.thumb(1, 4, up=True)
    votes.signal(2, 3, good=True, weight=0.7)
    return votes


def test_gradients_by_vote_agree_with_autograd() -> None:
    votes, given = every_kind(), nuisance(3, tie=0.3, position=0.2, edit_scale=0.7)
    likelihood = Likelihood(votes)
    r_N = torch.tensor([0.3, -0.2, 0.9, 0.1, -0.5], dtype=torch.float64)
    vote, reply, gradient = likelihood.gradients(r_N, given)
    for number in range(votes.count):
        of_r = r_N.clone().requires_grad_()
        alone_V = torch.nn.functional.one_hot(torch.tensor(number), votes.count).double()
        (gradient_N,) = torch.autograd.grad(likelihood(of_r, given, alone_V), of_r)
        found_N = torch.zeros(5, dtype=torch.float64)
        found_N.index_add_(0, reply[vote == number], gradient[vote == number])
        assert torch.allclose(found_N, gradient_N, atol=1e-12)


def test_each_vote_has_its_rater() -> None:
    assert every_kind().rater_of_vote == [0, 1, 2, 1, 2]


def test_a_ranking_is_invariant_to_a_shift_of_all_rewards() -> None:
    votes = Votes(1)
    votes.ranking(0, [[2], [0, 1], [3]], first=1)
    r, given = [0.3, -0.8, 1.1, 0.2], nuisance(1, tie=0.4, position=0.3, ranking_scale=0.5)
    shifted = [each + 5.0 for each in r]
    assert log_likelihood(votes, shifted, given) == pytest.approx(log_likelihood(votes, r, given))


def test_the_likelihood_is_invariant_to_a_permutation_of_replies() -> None:
    r, given = [0.3, -0.8, 1.1, 0.2, 0.6], nuisance(3, tie=0.4, position=0.3)
    other = [3, 0, 4, 1, 2]  # the new index of each reply
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


def test_the_gradient_of_an_edit_is_bradley_terrys() -> None:
    votes = Votes(1)
    votes.edit(0, 0, 1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        r_N = torch.randn(2, generator=generator, dtype=torch.float64)
        _, reply, gradient = Likelihood(votes).gradients(r_N, nuisance(1))
        gap, worth = float(r_N[0] - r_N[1]), float(r_N[0])
        slope = gradient_with_lapses(gap) + gradient_with_lapses(worth)
        assert float(gradient[reply == 0].sum()) == pytest.approx(slope, abs=1e-9)
        assert float(gradient[reply == 1].sum()) == pytest.approx(-gradient_with_lapses(gap), abs=1e-9)


def gradient_with_lapses(x: float) -> float:
    """The derivative of log(LAPSE_RATE / 2 + (1 − LAPSE_RATE)·σ(x))."""
    p = sigmoid(x)
    return (1 - LAPSE_RATE) * p * (1 - p) / (LAPSE_RATE / 2 + (1 - LAPSE_RATE) * p)


@pytest.mark.parametrize("seed", range(10))
def test_a_ranking_agrees_with_davidson_luce_enumerated(seed: int) -> None:
    """Value and gradients against every subset written out, with random parameters."""
    generator = torch.Generator().manual_seed(seed)
    r_N = torch.randn(5, generator=generator, dtype=torch.float64).requires_grad_()
    scale, position, reliability, *ties = torch.randn(8, generator=generator).tolist()
    groups = [[3], [0, 4], [1], [2]] if seed % 2 else [[1, 2, 3], [4, 0]]
    votes = Votes(1)
    votes.ranking(0, groups, first=4)
    given = nuisance(1, ranking_scale=scale, position=position)
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
            probability = chances[tuple(sorted(group))] / sum(chances.values())
            expected = expected + (LAPSE_RATE / len(chances) + (1 - LAPSE_RATE) * probability).log()
        left = [reply for reply in left if reply not in group]
    found = Likelihood(votes)(r_N, given, torch.ones(1, dtype=torch.float64))
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
    gradients = [torch.autograd.grad(value, r_N)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("seed", range(5))
def test_gradients_agree_with_central_differences(seed: int) -> None:
    """The parameters are b_u, a_u, c_s, g, ties and signals; the priors are included."""
    generator = torch.Generator().manual_seed(seed)
    likelihood = Likelihood(every_kind())
    r_N = torch.randn(5, generator=generator, dtype=torch.float64)
    bootstrap_V = torch.rand(every_kind().count, generator=generator, dtype=torch.float64)
    flat_F = 0.5 * torch.randn(NuisanceParameters.size(3), generator=generator, dtype=torch.float64)

    def value(flat_F: torch.Tensor) -> torch.Tensor:
        given = NuisanceParameters.unpack(flat_F, 3)
        return likelihood(r_N, given, bootstrap_V) + given.log_prior()

    (gradient_F,) = torch.autograd.grad(value(flat_F.requires_grad_()), flat_F)
    step = 1e-5
    for number in range(len(flat_F)):
        offset_F = step * torch.nn.functional.one_hot(torch.tensor(number), len(flat_F)).double()
        with torch.no_grad():
            difference = float(value(flat_F + offset_F) - value(flat_F - offset_F)) / (2 * step)
        assert float(gradient_F[number]) == pytest.approx(difference, abs=1e-7)
    (prior_F,) = torch.autograd.grad(NuisanceParameters.unpack(flat_F, 3).log_prior(), flat_F)
    unused = [*range(6 + 5, 6 + 5 + 2), *range(6 + 5 + 5, len(flat_F))]  # ties of none, one and five or more
    assert [number for number, each in enumerate((gradient_F - prior_F).tolist()) if each == 0] == unused


def test_an_imported_ranking_has_no_position_bias() -> None:
    votes = Votes(1)
    votes.ranking(0, [[0], [1]], first=None)
    biased, bare = (log_likelihood(votes, [0.2, 0.6], nuisance(1, position=g)) for g in (2.0, 0.0))
    assert biased == bare
