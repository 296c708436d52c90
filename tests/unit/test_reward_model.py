"""The one likelihood against closed forms, and what the ensemble learns from votes of known origin."""

import math

import pytest
import torch
from torch import Tensor

from schemas.settings import RewardSettings
from trainer.likelihood import LAPSE, MOST_RANKED, Likelihood, Terms, Votes, subsets
from trainer.reward_model import (
    Lens,
    RewardModel,
    _fit_member,
    fit,
    influence,
    look,
    pairwise_accuracy,
    principal_directions,
)

torch.set_num_threads(1)


def terms(raters: int, **changes: float) -> Terms:
    """Every term at its prior mean, but for the log parameters given."""
    flat = torch.zeros(Terms.size(raters), dtype=torch.float64)
    names = {"ranking_scale": 0, "edit_scale": 1, "position": 2, "tie": 5}
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
    votes.thumb(0, [0], up=True)
    votes.thumb(1, [1], up=False)
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
        votes.ranking(0, groups, first=-1)
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
    votes.ranking(0, [[0, 2], [1]], first=-1)
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
    votes.ranking(0, [[2], [0], [1]], first=-1)
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


def test_a_vote_counts_by_its_weight_however_many_rows_it_has() -> None:
    votes = Votes(1)
    votes.thumb(0, [0, 1], up=False)
    votes.thumb(0, [0], up=True)
    weights_V = torch.tensor([0.5, 0.0], dtype=torch.float64)
    value = Likelihood(votes)(torch.zeros(2, dtype=torch.float64), terms(1), weights_V)
    assert float(value) == pytest.approx(0.5 * 2 * math.log(0.5))


def test_a_long_ranking_keeps_its_best() -> None:
    votes = Votes(1)
    votes.ranking(0, [[i] for i in range(20)], first=0)
    assert max(votes.stages) == MOST_RANKED


def test_what_says_something() -> None:
    votes = Votes(1)
    votes.thumb(0, [0], up=False)
    votes.ranking(0, [[0, 1]], first=0)
    assert not votes.says_something()
    votes.ranking(0, [[1], [0]], first=0)
    assert votes.says_something()


def crowd_votes(
    raters: int, each: int, contrarians: int, seed: int
) -> tuple[dict[str, Tensor], Votes, Tensor]:
    """Replies with five views, thumbs by a hidden linear taste, and the truth about each reply."""
    generator = torch.Generator().manual_seed(seed)
    count = raters * each  # a multiple of four, the replies to a prompt
    hidden = torch.randn(count, 6, generator=generator)
    views = {
        "mean": torch.cat([hidden, torch.randn(count, 10, generator=generator)], 1),
        "peak": hidden @ torch.randn(6, 12, generator=generator),
        "last": hidden @ torch.randn(6, 12, generator=generator),
        "tokens": (hidden > 0).float(),
        "length": torch.randn(count, 1, generator=generator),
    }
    truth = hidden[:, 0] - hidden[:, 1]
    votes = Votes(raters)
    for reply in range(count):
        rater = reply % raters
        up = bool(torch.rand((), generator=generator) < torch.sigmoid(2 * truth[reply]))
        votes.thumb(rater, [reply], up=up != (rater < contrarians))
    return {name: view.half() for name, view in views.items()}, votes, truth


def fitted(views: dict[str, Tensor], votes: Votes) -> RewardModel:
    return fit(views, votes, views, 4, RewardSettings(), torch.Generator().manual_seed(0))


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def test_votes_teach_the_taste_behind_them() -> None:
    views, votes, truth = crowd_votes(raters=10, each=30, contrarians=0, seed=1)
    model = fitted(views, votes)
    assert correlation(model.reward(views), truth) > 0.85
    accuracy = pairwise_accuracy(model.reward(views), votes)
    assert accuracy is not None
    assert accuracy > 0.8


def test_the_reward_is_standardised_on_the_bases_replies() -> None:
    views, votes, _ = crowd_votes(raters=10, each=20, contrarians=0, seed=2)
    scores_NM = fitted(views, votes).scores(views)
    assert torch.allclose(scores_NM.mean(0), torch.zeros(5), atol=1e-3)
    assert torch.allclose(scores_NM.std(0), torch.ones(5), atol=1e-3)


def test_who_votes_against_everyone_loses_influence() -> None:
    views, votes, truth = crowd_votes(raters=10, each=40, contrarians=2, seed=3)
    member = fitted(views, votes).members[0]
    reliability = member.terms.reliability_U
    assert float(reliability[:2].max()) < 0.3
    assert float(reliability[2:].min()) > 0.5
    assert correlation(fitted(views, votes).reward(views), truth) > 0.85


def test_members_differ_and_doubt_costs_reward() -> None:
    views, votes, _ = crowd_votes(raters=4, each=10, contrarians=0, seed=4)
    model = fitted(views, votes)
    scores_NM = model.scores(views)
    assert float(scores_NM.std(1).mean()) > 0.1
    expected = scores_NM.mean(1) - model.caution * scores_NM.std(1)
    assert torch.equal(model.reward(views), expected)


def test_principal_directions_are_orthonormal_and_span_the_rows() -> None:
    x_ND = torch.randn(12, 40, generator=torch.Generator().manual_seed(5))
    basis_DK = principal_directions(x_ND, 40)
    assert torch.allclose(basis_DK.T @ basis_DK, torch.eye(12), atol=1e-4)
    assert torch.allclose(x_ND @ basis_DK @ basis_DK.T, x_ND, atol=1e-4)
    largest_DK = principal_directions(x_ND, 3)
    singular = torch.linalg.svdvals(x_ND)[:3]
    assert torch.allclose((x_ND @ largest_DK).norm(dim=0).sort(descending=True).values, singular, atol=1e-3)


def test_what_all_replies_to_a_prompt_share_is_not_looked_at() -> None:
    generator = torch.Generator().manual_seed(6)
    subject_PD = torch.randn(20, 1, 3, generator=generator) * torch.tensor([5.0, 0.0, 0.0])
    manner_PKD = torch.randn(20, 4, 3, generator=generator) * torch.tensor([0.0, 1.0, 1.0])
    lens = Lens.on("mean", (subject_PD + manner_PKD).flatten(0, 1), per_prompt=4)
    assert lens.basis_DK.shape == (3, 2)
    assert torch.allclose(lens.basis_DK[0], torch.zeros(2), atol=1e-5)


def every_kind() -> Votes:
    votes = Votes(3)
    votes.thumb(0, [0, 1], up=False)
    votes.edit(1, 2, 3)
    votes.ranking(2, [[1], [0, 4], [2]], first=0)
    votes.thumb(1, [4], up=True)
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
    assert every_kind().rater_of_each() == [0, 1, 2, 1]


def test_the_influence_of_a_vote_is_what_its_absence_changes() -> None:
    views, votes, _ = crowd_votes(raters=5, each=24, contrarians=0, seed=8)
    model = fitted(views, votes)
    found = influence(model, views, votes)

    def change(without: set[int]) -> float:
        """Root mean square, of the members' logits, when refitted on the other votes."""
        kept = Likelihood(votes)
        generator = torch.Generator().manual_seed(0)
        total = 0.0
        for member in model.members:
            weights_V = torch.empty(votes.count, dtype=torch.float64).exponential_(generator=generator)
            weights_V[list(without)] = 0.0
            other = _fit_member(member.lenses, member.names, views, views, kept, votes.raters, weights_V)
            seen_NK = look(member.lenses, member.names, views)
            moved_N = seen_NK @ (other.direction_K - member.direction_K)
            total += float(moved_N.square().mean().sqrt())
        return total / len(model.members)

    order = found.of_votes_V.argsort(descending=True).tolist()
    heavy, light = order[:3], order[-3:]
    assert min(change({vote}) for vote in heavy) > 3 * max(change({vote}) for vote in light)
    assert found.of_raters_U.shape == (5,)


def test_who_is_not_heeded_has_little_influence() -> None:
    views, votes, _ = crowd_votes(raters=10, each=40, contrarians=2, seed=3)
    found = influence(fitted(views, votes), views, votes)
    assert float(found.of_raters_U[:2].max()) < 0.5 * float(found.of_raters_U[2:].mean())
    assert float(found.reliability_U[:2].max()) < 0.3
