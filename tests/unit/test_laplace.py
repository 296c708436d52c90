"""What votes say, to second order, against the likelihood itself."""

import torch
from torch.autograd.functional import hessian

from trainer.reward.laplace import Quadratic, join, split
from trainer.reward.likelihood import Likelihood, Terms, Votes
from trainer.reward.posterior import PRIOR, Posterior

torch.set_num_threads(1)

WIDTH, RATERS = 4, 3


def posterior(seed: int, past: Quadratic | None = None) -> Posterior:
    """Thumbs, edits and rankings of three raters on forty replies."""
    generator = torch.Generator().manual_seed(seed)
    seen_NK = 0.3 * torch.randn(40, WIDTH, generator=generator, dtype=torch.float64)
    votes = Votes(RATERS)
    for number in range(60):
        one, two, three = torch.randperm(40, generator=generator)[:3].tolist()
        match number % 3:
            case 0:
                votes.thumb(number % 2, one, up=bool(seen_NK[one, 0] > 0))
            case 1:
                votes.edit(number % 2, one, two)
            case 2:
                votes.ranking(number % 2, [[one], [two, three]], first=two)
    return Posterior(seen_NK, Likelihood(votes), RATERS, torch.ones(60, dtype=torch.float64), past)


def some_parameters(seed: int, size: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    count = WIDTH + 1 + Terms.size(RATERS)
    return size * torch.randn(count, generator=generator, dtype=torch.float64)


def log_p(of: Posterior, flat: torch.Tensor) -> torch.Tensor:
    """What the votes alone say: the posterior less the prior."""
    terms = Terms.unpack(flat[WIDTH + 1 :], RATERS)
    prior = terms.log_prior() - 0.5 * (flat[:WIDTH].square().sum() + (flat[WIDTH] / PRIOR).square())
    return -of.loss(flat[:WIDTH], flat[WIDTH:]) - prior


def test_a_members_parameters_are_taken_apart_and_put_together() -> None:
    flat = some_parameters(1, 1.0)
    x_D, own_U2 = split(flat, RATERS)
    assert own_U2.shape == (RATERS, 2)
    assert torch.equal(own_U2[:, 0], flat[WIDTH + 1 : WIDTH + 1 + RATERS])
    assert torch.equal(join(x_D, own_U2), flat)


def test_near_where_it_was_expanded_it_is_the_likelihood() -> None:
    votes, at = posterior(2), some_parameters(3, 0.3)
    kept = votes.said(at, votes.draws_V)
    x_D, own_U2 = split(some_parameters(4, 0.01), RATERS)
    for step in (join(x_D, torch.zeros_like(own_U2)), join(torch.zeros_like(x_D), own_U2)):
        truth = log_p(votes, at + step) - log_p(votes, at)
        found = kept(at + step) - kept(at)
        assert abs(float(truth - found)) < 1e-3
        assert abs(float(found)) > 20 * abs(float(truth - found))


def test_groups_add_up_to_all_votes() -> None:
    votes, at = posterior(5), some_parameters(6, 0.3)
    first_V = (torch.arange(60) < 25).double()
    parts = Quadratic.stack([votes.said(at, first_V), votes.said(at, 1 - first_V)])
    for one, two in zip(
        parts.of_groups([0, 1]).parts(), votes.said(at, torch.ones_like(first_V)).parts(), strict=True
    ):
        torch.testing.assert_close(one, two)


def test_a_fit_beside_the_past_ends_where_one_without_other_coordinates_does() -> None:
    older = posterior(7)
    past = older.said(older.mode(), older.draws_V).convex()
    beside = posterior(8, past)
    mode = beside.mode()
    flat = mode.clone().requires_grad_()
    beside.loss(flat[:WIDTH], flat[WIDTH:]).backward()  # type: ignore[no-untyped-call]
    assert flat.grad is not None
    assert float(flat.grad.abs().max()) < 1e-2


def test_raters_are_found_by_their_place_and_new_ones_know_nothing() -> None:
    votes, at = posterior(9), some_parameters(10, 0.3)
    said = votes.said(at, votes.draws_V)
    moved = said.of_raters([1, None, 0])
    assert torch.equal(moved.precision_U22[[0, 2]], said.precision_U22[[1, 0]])
    assert not moved.precision_U22[1].any()
    assert not moved.linear_U2[1].any()
    assert not said.linear_U2[2].any()  # who never voted


def test_what_curves_the_other_way_is_left_out() -> None:
    votes = posterior(11)
    said = votes.said(some_parameters(12, 3.0), votes.draws_V)
    assert float(torch.linalg.eigvalsh(said.precision_DD).min()) < -0.1
    assert float(torch.linalg.eigvalsh(said.convex().precision_DD).min()) > -1e-9


def test_it_is_expanded_as_the_likelihood_curves() -> None:
    votes, at = posterior(13), some_parameters(14, 0.5)
    x_D, own_U2 = split(at, RATERS)
    dense = hessian(lambda each_D: log_p(votes, join(each_D, own_U2)), x_D)
    own = hessian(lambda each_U2: log_p(votes, join(x_D, each_U2)), own_U2)
    said = votes.said(at, votes.draws_V)
    torch.testing.assert_close(said.precision_DD, -dense)
    for rater in range(RATERS):
        torch.testing.assert_close(said.precision_U22[rater], -own[rater, :, rater])
    covariance_KK = votes.covariance_KK(at)
    values_K = torch.linalg.eigvalsh(-dense[:WIDTH, :WIDTH]).clamp_min(0)
    torch.testing.assert_close(torch.linalg.eigvalsh(covariance_KK), (1 / (1 + values_K)).flip(0))


def test_what_older_votes_say_makes_the_direction_surer() -> None:
    older = posterior(15)
    past = older.said(older.mode(), older.draws_V).convex()
    beside = posterior(16, past)
    mode = beside.mode()
    curvature_KK = hessian(lambda each: beside.loss(each, mode[WIDTH:]), mode[:WIDTH])
    assert float(torch.linalg.eigvalsh(curvature_KK).min()) > 1.0
    torch.testing.assert_close(beside.covariance_KK(mode), torch.linalg.inv(curvature_KK))
