"""This module implements the posterior of one ensemble member, with its mode and Laplace approximation.

The posterior is the product of a normal prior, the likelihood of the votes, and the summary of older votes. A
member's free parameters are one vector: its coefficients (in standard deviations of the prior), its bias, and
the nuisance parameters of the likelihood.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad, jacrev

from trainer.reward.laplace import SHARED_SIZE, LaplaceSummary, join, split
from trainer.reward.likelihood import Likelihood, NuisanceParameters

PRIOR_STD = 4.0
"""Standard deviation of the prior on a member's bias, and on its logit over the base's replies. The prior on
the bias keeps it finite where nearly all thumbs are down. Chosen on tests.bench.reward."""


@dataclass(frozen=True, slots=True)
class Posterior:
    """The posterior of a member with inputs `features_NK`, on votes with weights `bootstrap_V`."""

    features_NK: Tensor
    likelihood: Likelihood
    raters: int
    bootstrap_V: Tensor
    history: LaplaceSummary | None

    def loss(self, weights_K: Tensor, rest: Tensor) -> Tensor:
        """Returns −log posterior, up to a constant, in nats."""
        nuisance = NuisanceParameters.unpack(rest[1:], self.raters)
        prior = nuisance.log_prior() - 0.5 * (weights_K.square().sum() + (rest[0] / PRIOR_STD).square())
        value = -self.likelihood(self._rewards(weights_K, rest[0]), nuisance, self.bootstrap_V) - prior
        return value if self.history is None else value - self.history(torch.cat([weights_K, rest]))

    def mode(self, start: Tensor | None = None, iterations: int = 150) -> Tensor:
        """Returns the maximum a posteriori parameters, found by at most so many iterations of L-BFGS, from
        `start` where there is no history."""
        width = self.features_NK.shape[1]
        size = width + 1 + NuisanceParameters.size(self.raters)
        unwhiten: Callable[[Tensor], Tensor] = _identity if self.history is None else self.history.whitening()
        free = torch.zeros(size, dtype=torch.float64) if start is None else start.clone()
        free.requires_grad_()
        optimizer = torch.optim.LBFGS(
            [free], max_iter=iterations, history_size=20, tolerance_grad=1e-4, tolerance_change=1e-7,
            line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure() -> Tensor:
            optimizer.zero_grad()
            flat = unwhiten(free)
            value = self.loss(flat[:width], flat[width:])
            value.backward()  # type: ignore[no-untyped-call]
            return value

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        return unwhiten(free.detach())

    def covariance_KK(self, at: Tensor) -> Tensor:
        """Returns the covariance of the coefficients around the mode `at`, by Laplace's approximation."""
        width = self.features_NK.shape[1]
        nuisance = NuisanceParameters.unpack(at[width + 1 :], self.raters)
        hessian_NN = self.likelihood.hessian(self._rewards(at[:width], at[width]), nuisance, self.bootstrap_V)
        votes_KK = -(PRIOR_STD**2) * self.features_NK.T @ (hessian_NN @ self.features_NK)
        if self.history is not None:
            votes_KK = votes_KK + self.history.precision_DD[:width, :width]
        # Votes explained as lapses have negative curvature; there the prior alone counts.
        eye_KK = torch.eye(width, dtype=torch.float64)
        values_K, vectors_KK = torch.linalg.eigh(votes_KK)
        precision_KK = eye_KK + (vectors_KK * values_K.clamp_min(0)) @ vectors_KK.T
        inverse_KK: Tensor = torch.linalg.inv(precision_KK)
        return inverse_KK

    def laplace_summary(self, at: Tensor, bootstrap_V: Tensor) -> LaplaceSummary:
        """Returns the second-order expansion of the likelihood around `at`, of votes with weights
        `bootstrap_V`. The derivatives in coefficients and bias follow from those in the rewards by the chain
        rule, as the rewards are linear in them."""
        x_D, raters_U2 = split(at, self.raters)
        by_x_NX = torch.cat([PRIOR_STD * self.features_NK, torch.ones_like(self.features_NK[:, :1])], 1)
        r_N, shared_S = by_x_NX @ x_D[:-SHARED_SIZE], x_D[-SHARED_SIZE:]

        def log_p(r_N: Tensor, shared_S: Tensor, raters_U2: Tensor) -> Tensor:
            nuisance = NuisanceParameters.unpack(join(shared_S, raters_U2), self.raters)
            return self.likelihood(r_N, nuisance, bootstrap_V)

        gradient_N, gradient_S, gradient_U2 = grad(log_p, (0, 1, 2))(r_N, shared_S, raters_U2)
        gradient_D = torch.cat([gradient_N @ by_x_NX, gradient_S])
        nuisance = NuisanceParameters.unpack(join(shared_S, raters_U2), self.raters)
        hessian_NN = self.likelihood.hessian(r_N, nuisance, bootstrap_V)
        hessian_SN, hessian_SS = jacrev(grad(log_p, 1), (0, 1))(r_N, shared_S, raters_U2)
        hessian_SX = hessian_SN @ by_x_NX
        hessian_XD = torch.cat([by_x_NX.T @ (hessian_NN @ by_x_NX), hessian_SX.T], 1)
        precision_DD = -torch.cat([hessian_XD, torch.cat([hessian_SX, hessian_SS], 1)])
        # Each vote is by one rater, so the sum over raters has the derivatives of each rater.
        hessian_2U2 = jacrev(lambda raters_U2: grad(log_p, 2)(r_N, shared_S, raters_U2).sum(0))(raters_U2)
        precision_U22 = -hessian_2U2.transpose(0, 1)
        return LaplaceSummary(
            precision_DD, gradient_D + precision_DD @ x_D,
            precision_U22, gradient_U2 + (precision_U22 @ raters_U2.unsqueeze(2)).squeeze(2),
        )  # fmt: skip

    def _rewards(self, weights_K: Tensor, bias: Tensor) -> Tensor:
        return PRIOR_STD * (self.features_NK @ weights_K) + bias


def _identity(free: Tensor) -> Tensor:
    return free
