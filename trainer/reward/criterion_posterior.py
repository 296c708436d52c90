"""The posterior of a criterion's parameters, given what votes say about it (`criteria`), with its mode and
Laplace approximation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import expm1, log

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from trainer.reward.likelihood import LENIENCY_STD, RELIABILITY_SHARPNESS, RELIABILITY_STD

COEFFICIENT_STD = 1.0
"""Standard deviation of the normal prior on r_c over the base's replies. Mentions are few: with a wider prior
r_c would have much of their noise, and a constraint would balance the noise too."""

DIFFICULTY_STD = 4.0
"""Standard deviation of the normal prior on β."""

_INVERSE_SOFTPLUS_OF_1 = log(expm1(RELIABILITY_SHARPNESS)) / RELIABILITY_SHARPNESS


@dataclass(frozen=True, slots=True)
class CriterionPosterior:
    """The posterior given votes on replies with these inputs, which are differences in votes that compare.
    `kinds` has, for praise and for blame, the sign of r_c and which of the other votes say so. Free
    parameters have standard normal priors: w, a_u, then β and b_u of each kind."""

    inputs_MK: Tensor
    kinds: Sequence[tuple[float, Tensor]]
    compared_M: Tensor
    rater_M: Tensor
    weight_M: Tensor

    @property
    def width(self) -> int:
        return self.inputs_MK.shape[1]

    @property
    def raters(self) -> int:
        return int(self.rater_M.max()) + 1

    def coefficients(self, free: Tensor) -> Tensor:
        """Returns w."""
        return COEFFICIENT_STD * free[: self.width]

    def reliability_M(self, free: Tensor) -> Tensor:
        """Returns a_u of each vote's rater."""
        own_U = RELIABILITY_STD * free[self.width : self.width + self.raters] + _INVERSE_SOFTPLUS_OF_1
        return softplus(own_U, RELIABILITY_SHARPNESS)[self.rater_M]

    def loss(self, free: Tensor) -> Tensor:
        """Returns −log posterior, up to a constant, in nats."""
        value = 0.5 * free.square().sum()
        for of_M, said_M, logit_M in self._logits(free):
            weight_M = self.weight_M * of_M
            value = value - (weight_M * logsigmoid(torch.where(said_M, logit_M, -logit_M))).sum()
        return value

    def mode(self) -> Tensor:
        """Returns the free parameters of the maximum, found by L-BFGS from the prior's."""
        size = self.width + self.raters + len(self.kinds) * (1 + self.raters)
        free = torch.zeros(size, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [free], max_iter=100, history_size=20, tolerance_grad=1e-4, tolerance_change=1e-7,
            line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = self.loss(free)
            value.backward()  # type: ignore[no-untyped-call]
            return value

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        return free.detach()

    def covariance_KK(self, mode: Tensor) -> Tensor:
        """Returns the covariance of w around the mode."""
        p = [(of_M, logit_M.sigmoid()) for of_M, _, logit_M in self._logits(mode)]
        spread_M = sum(of_M * each * (1 - each) for of_M, each in p)
        curvature_M = self.weight_M * self.reliability_M(mode).square() * spread_M
        votes_KK = self.inputs_MK.T @ (curvature_M.unsqueeze(1) * self.inputs_MK)
        prior_KK = torch.eye(self.width, dtype=torch.float64) / COEFFICIENT_STD**2
        covariance_KK: Tensor = torch.linalg.inv(prior_KK + votes_KK)
        return covariance_KK

    def _logits(self, free: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yields for each kind, and then for comparisons, which votes it is of, which of them say so, and
        the logit of it."""
        r_M = self.reliability_M(free) * (self.inputs_MK @ self.coefficients(free))
        rest = free[self.width + self.raters :].view(len(self.kinds), 1 + self.raters)
        for (sign, said_M), own in zip(self.kinds, rest, strict=True):
            logit_M = sign * r_M + DIFFICULTY_STD * own[0] + LENIENCY_STD * own[1:][self.rater_M]
            yield ~self.compared_M, said_M, logit_M
        yield self.compared_M, self.compared_M, r_M
