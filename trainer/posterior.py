"""What a member of the reward model is fitted by: the prior, the votes, and what is left of older ones.

A member's free parameters are one vector: its direction (in standard deviations of the prior), its bias, and
the terms of the likelihood (`likelihood.Terms`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.likelihood import Likelihood, Terms
from trainer.quadratic import Quadratic

PRIOR = 4.0
"""Standard deviation of a member's logit before any vote, over the base's replies."""


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
        prior = terms.log_prior() - 0.5 * weights_K.square().sum()
        value = -self._log_p(weights_K, rest[0], terms, self.draws_V) - prior
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
        weights_K, rest = at[:width], at[width:]
        curvature_KK = torch.autograd.functional.hessian(  # type: ignore[no-untyped-call]
            lambda each: self.loss(each, rest), weights_K, vectorize=True
        )
        # Where a vote is taken for a slip the likelihood curves the other way; there the prior alone counts.
        eye_KK = torch.eye(width, dtype=torch.float64)
        values_K, vectors_KK = torch.linalg.eigh(curvature_KK - eye_KK)
        curvature_KK = eye_KK + (vectors_KK * values_K.clamp_min(0)) @ vectors_KK.T
        inverse_KK: Tensor = torch.linalg.inv(curvature_KK)
        return inverse_KK

    def said(self, at: Tensor, draws_V: Tensor) -> Quadratic:
        """What the votes say, weighed by `draws_V`, to second order around `at`."""
        width = self.seen_NK.shape[1]

        def log_p(flat: Tensor) -> Tensor:
            terms = Terms.unpack(flat[width + 1 :], self.raters)
            return self._log_p(flat[:width], flat[width], terms, draws_V)

        return Quadratic.expand(log_p, at, self.raters)

    def _log_p(self, weights_K: Tensor, bias: Tensor, terms: Terms, draws_V: Tensor) -> Tensor:
        return self.likelihood(PRIOR * (self.seen_NK @ weights_K) + bias, terms, draws_V)


def _as_it_is(free: Tensor) -> Tensor:
    return free
