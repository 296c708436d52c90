"""What a member of the reward model is fitted by: the prior, the votes, and what is left of older ones.

A member's free parameters are one vector: its direction (in standard deviations of the prior), its bias, and
the terms of the likelihood (`likelihood.Terms`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad, jacrev

from trainer.reward.laplace import SHARED, Quadratic, join, split
from trainer.reward.likelihood import Likelihood, Terms

PRIOR = 4.0
"""Standard deviation of a member's logit before any vote, over the base's replies, and of its bias. Without
one of the bias a thumb up among many down was best explained as a slip, at a bias of minus infinity, where
no reply is any better than another."""


@dataclass(frozen=True, slots=True)
class Posterior:
    """Of the parameters of a member that sees `seen_NK` of the replies and weighs the votes by `draws_V`."""

    seen_NK: Tensor
    likelihood: Likelihood
    raters: int
    draws_V: Tensor
    past: Quadratic | None

    def loss(self, weights_K: Tensor, rest: Tensor) -> Tensor:
        """−log posterior, up to a constant, in nats."""
        terms = Terms.unpack(rest[1:], self.raters)
        prior = terms.log_prior() - 0.5 * (weights_K.square().sum() + (rest[0] / PRIOR).square())
        value = -self.likelihood(self._r(weights_K, rest[0]), terms, self.draws_V) - prior
        return value if self.past is None else value - self.past(torch.cat([weights_K, rest]))

    def mode(self) -> Tensor:
        """The parameters where it is highest, by L-BFGS."""
        width = self.seen_NK.shape[1]
        place: Callable[[Tensor], Tensor] = _as_it_is if self.past is None else self.past.coordinates()
        free = torch.zeros(width + 1 + Terms.size(self.raters), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [free], max_iter=150, history_size=20, tolerance_grad=1e-4, tolerance_change=1e-7,
            line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure() -> Tensor:
            optimizer.zero_grad()
            flat = place(free)
            value = self.loss(flat[:width], flat[width:])
            value.backward()  # type: ignore[no-untyped-call]
            return value

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        return place(free.detach())

    def covariance_KK(self, at: Tensor) -> Tensor:
        """Of the direction, around the mode `at`, by Laplace's approximation."""
        width = self.seen_NK.shape[1]
        terms = Terms.unpack(at[width + 1 :], self.raters)
        by_r_NN = self.likelihood.curvature(self._r(at[:width], at[width]), terms, self.draws_V)
        votes_KK = -(PRIOR**2) * self.seen_NK.T @ (by_r_NN @ self.seen_NK)
        if self.past is not None:
            votes_KK = votes_KK + self.past.precision_DD[:width, :width]
        # Where a vote is taken for a slip the likelihood curves the other way; there the prior alone counts.
        eye_KK = torch.eye(width, dtype=torch.float64)
        values_K, vectors_KK = torch.linalg.eigh(votes_KK)
        curvature_KK = eye_KK + (vectors_KK * values_K.clamp_min(0)) @ vectors_KK.T
        inverse_KK: Tensor = torch.linalg.inv(curvature_KK)
        return inverse_KK

    def said(self, at: Tensor, draws_V: Tensor) -> Quadratic:
        """What the votes say, weighed by `draws_V`, to second order around `at`: first in the replies' r and
        in the terms, and in the direction and the bias by the chain rule, as r is linear in them."""
        x_D, own_U2 = split(at, self.raters)
        by_x_NX = torch.cat([PRIOR * self.seen_NK, torch.ones_like(self.seen_NK[:, :1])], 1)
        r_N, shared_S = by_x_NX @ x_D[:-SHARED], x_D[-SHARED:]

        def log_p(r_N: Tensor, shared_S: Tensor, own_U2: Tensor) -> Tensor:
            return self.likelihood(r_N, Terms.unpack(join(shared_S, own_U2), self.raters), draws_V)

        slope_N, slope_S, slope_U2 = grad(log_p, (0, 1, 2))(r_N, shared_S, own_U2)
        slope_D = torch.cat([slope_N @ by_x_NX, slope_S])
        terms = Terms.unpack(join(shared_S, own_U2), self.raters)
        by_r_NN = self.likelihood.curvature(r_N, terms, draws_V)
        by_r_SN, by_shared_SS = jacrev(grad(log_p, 1), (0, 1))(r_N, shared_S, own_U2)
        by_x_SX = by_r_SN @ by_x_NX
        of_x_XD = torch.cat([by_x_NX.T @ (by_r_NN @ by_x_NX), by_x_SX.T], 1)
        precision_DD = -torch.cat([of_x_XD, torch.cat([by_x_SX, by_shared_SS], 1)])
        # No vote is of two raters: the sum over them has the derivatives of each.
        by_own_2U2 = jacrev(lambda own_U2: grad(log_p, 2)(r_N, shared_S, own_U2).sum(0))(own_U2)
        precision_U22 = -by_own_2U2.transpose(0, 1)
        return Quadratic(
            precision_DD, slope_D + precision_DD @ x_D,
            precision_U22, slope_U2 + (precision_U22 @ own_U2.unsqueeze(2)).squeeze(2),
        )  # fmt: skip

    def _r(self, weights_K: Tensor, bias: Tensor) -> Tensor:
        return PRIOR * (self.seen_NK @ weights_K) + bias


def _as_it_is(free: Tensor) -> Tensor:
    return free
