"""The Laplace approximation is compared with the likelihood itself."""

import torch
from torch.autograd.functional import hessian

from trainer.reward.laplace import LaplaceSummary, join, split
from trainer.reward.likelihood import Likelihood, NuisanceParameters, Votes
from trainer.reward.posterior import PRIOR_STD, Posterior

torch.set_num_threads(1)

WIDTH, RATERS = 4, 3


def posterior(seed: int, history: LaplaceSummary | None = None) -> Posterior:
    """Thumbs, edits and rankings of three raters on forty replies."""
    generator = torch.Generator().manual_seed(seed)
    features_NK = 0.3 * torch.randn(40, WIDTH, generator=generator, dtype=torch.float64)
    votes = Votes(RATERS)
    for number in range(60):
        one, two, three = torch.randperm(40, generator=generator)[:3].tolist()
        match number % 3:
            case 0:
                votes.thumb(number % 2, one, up=bool(features_NK[one, 0] > 0))
            case 1:
                votes.edit(number % 2, one, two)
            case 2:
                votes.ranking(number % 2, [[one], [two, three]], first=two)
    return Posterior(features_NK, Likelihood(votes), RATERS, torch.ones(60, dtype=torch.float64), history)


def some_parameters(seed: int, size: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    count = WIDTH + 1 + NuisanceParameters.size(RATERS)
    return size * torch.randn(count, generator=generator, dtype=torch.float64)


def log_p(of: Posterior, flat: torch.Tensor) -> torch.Tensor:
    """The log-likelihood: the posterior less the prior."""
    nuisance = NuisanceParameters.unpack(flat[WIDTH + 1 :], RATERS)
    prior = nuisance.log_prior() - 0.5 * (flat[:WIDTH].square().sum() + (flat[WIDTH] / PRIOR_STD).square())
    return -of.loss(flat[:WIDTH], flat[WIDTH:]) - prior


def test_join_inverts_split() -> None:
    flat = some_parameters(1, 1.0)
    x_D, raters_U2 = split(flat, RATERS)
    assert raters_U2.shape == (RATERS, 2)
    assert torch.equal(raters_U2[:, 0], flat[WIDTH + 1 : WIDTH + 1 + RATERS])
    assert torch.equal(join(x_D, raters_U2), flat)


def test_the_summary_is_the_likelihood_near_its_expansion_point() -> None:
    votes, at = posterior(2), some_parameters(3, 0.3)
    kept = votes.laplace_summary(at, votes.bootstrap_V)
    x_D, raters_U2 = split(some_parameters(4, 0.01), RATERS)
    for step in (join(x_D, torch.zeros_like(raters_U2)), join(torch.zeros_like(x_D), raters_U2)):
        truth = log_p(votes, at + step) - log_p(votes, at)
        found = kept(at + step) - kept(at)
        assert abs(float(truth - found)) < 1e-3
        assert abs(float(found)) > 20 * abs(float(truth - found))


def test_groups_add_up_to_all_votes() -> None:
    votes, at = posterior(5), some_parameters(6, 0.3)
    first_V = (torch.arange(60) < 25).double()
    parts = LaplaceSummary.stack([votes.laplace_summary(at, first_V), votes.laplace_summary(at, 1 - first_V)])
    for one, two in zip(
        parts.sum_groups([0, 1]).tensors(),
        votes.laplace_summary(at, torch.ones_like(first_V)).tensors(),
        strict=True,
    ):
        torch.testing.assert_close(one, two)


def test_whitening_does_not_move_the_mode() -> None:
    older = posterior(7)
    history = older.laplace_summary(older.mode(), older.bootstrap_V).positive_semidefinite()
    newer = posterior(8, history)
    mode = newer.mode()
    flat = mode.clone().requires_grad_()
    newer.loss(flat[:WIDTH], flat[WIDTH:]).backward()  # type: ignore[no-untyped-call]
    assert flat.grad is not None
    assert float(flat.grad.abs().max()) < 1e-2


def test_raters_are_selected_by_index_and_new_ones_are_zero() -> None:
    votes, at = posterior(9), some_parameters(10, 0.3)
    summary = votes.laplace_summary(at, votes.bootstrap_V)
    moved = summary.select_raters([1, None, 0])
    assert torch.equal(moved.precision_U22[[0, 2]], summary.precision_U22[[1, 0]])
    assert not moved.precision_U22[1].any()
    assert not moved.linear_U2[1].any()
    assert not summary.linear_U2[2].any()  # a rater without votes


def test_negative_curvature_is_removed() -> None:
    votes = posterior(11)
    summary = votes.laplace_summary(some_parameters(12, 3.0), votes.bootstrap_V)
    assert float(torch.linalg.eigvalsh(summary.precision_DD).min()) < -0.1
    assert float(torch.linalg.eigvalsh(summary.positive_semidefinite().precision_DD).min()) > -1e-9


def test_the_precision_is_the_negative_hessian() -> None:
    votes, at = posterior(13), some_parameters(14, 0.5)
    x_D, raters_U2 = split(at, RATERS)
    dense = hessian(lambda each_D: log_p(votes, join(each_D, raters_U2)), x_D)
    own = hessian(lambda each_U2: log_p(votes, join(x_D, each_U2)), raters_U2)
    summary = votes.laplace_summary(at, votes.bootstrap_V)
    torch.testing.assert_close(summary.precision_DD, -dense)
    for rater in range(RATERS):
        torch.testing.assert_close(summary.precision_U22[rater], -own[rater, :, rater])
    covariance_KK = votes.covariance_KK(at)
    values_K = torch.linalg.eigvalsh(-dense[:WIDTH, :WIDTH]).clamp_min(0)
    torch.testing.assert_close(torch.linalg.eigvalsh(covariance_KK), (1 / (1 + values_K)).flip(0))


def test_history_reduces_the_covariance_of_the_coefficients() -> None:
    older = posterior(15)
    history = older.laplace_summary(older.mode(), older.bootstrap_V).positive_semidefinite()
    newer = posterior(16, history)
    mode = newer.mode()
    hessian_KK = hessian(lambda each: newer.loss(each, mode[WIDTH:]), mode[:WIDTH])
    assert float(torch.linalg.eigvalsh(hessian_KK).min()) > 1.0
    torch.testing.assert_close(newer.covariance_KK(mode), torch.linalg.inv(hessian_KK))
