"""What votes say, kept to second order: log P ≈ linear·x − ½ x·precision x, up to a constant, for x the free
parameters of a member (`posterior`).

It is the votes' log-likelihood expanded where the member's posterior is highest (online Laplace: Opper 1998).
Two of them add up to that of all their votes, and votes that weigh half as much have half of it. A rater's
parameters are taken as independent of all others, so that who votes no more need not be known to go on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.reward.likelihood import Terms

SHARED = Terms.size(0)
"""Free parameters of the terms that all raters share."""


def split(flat: Tensor, raters: int) -> tuple[Tensor, Tensor]:
    """A member's parameters: (D,) direction, bias and shared terms; (U, 2) leniency and reliability."""
    head = len(flat) - Terms.size(raters)
    own_U2 = flat[head : head + 2 * raters].view(2, raters).T
    return torch.cat([flat[:head], flat[head + 2 * raters :]]), own_U2


def join(x_D: Tensor, own_U2: Tensor) -> Tensor:
    """What `split` split."""
    return torch.cat([x_D[:-SHARED], own_U2.T.reshape(-1), x_D[-SHARED:]])


@dataclass(frozen=True, slots=True)
class Quadratic:
    """Of a member, or with one more dimension in front, of several groups of votes."""

    precision_DD: Tensor
    linear_D: Tensor
    precision_U22: Tensor
    linear_U2: Tensor

    @classmethod
    def zero(cls, groups: int, size: int) -> "Quadratic":
        """Of no votes and no raters."""
        return cls(
            torch.zeros(groups, size, size, dtype=torch.float64),
            torch.zeros(groups, size, dtype=torch.float64),
            torch.zeros(groups, 0, 2, 2, dtype=torch.float64),
            torch.zeros(groups, 0, 2, dtype=torch.float64),
        )

    @classmethod
    def stack(cls, found: Sequence["Quadratic"]) -> "Quadratic":
        return cls(*(torch.stack(column) for column in zip(*(each.parts() for each in found), strict=True)))

    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.precision_DD, self.linear_D, self.precision_U22, self.linear_U2

    def __add__(self, other: "Quadratic") -> "Quadratic":
        return Quadratic(*(one + two for one, two in zip(self.parts(), other.parts(), strict=True)))

    def times(self, factor: float) -> "Quadratic":
        return Quadratic(*(factor * part for part in self.parts()))

    def of_groups(self, groups: Sequence[int]) -> "Quadratic":
        """Those groups' votes together."""
        return Quadratic(*(part[list(groups)].sum(0) for part in self.parts()))

    def of_raters(self, places: Sequence[int | None]) -> "Quadratic":
        """The raters at these places, in this order; None is one that nothing is known of."""
        known = [row for row, place in enumerate(places) if place is not None]
        kept = [place for place in places if place is not None]
        front = self.linear_D.shape[:-1]
        precision_U22 = self.precision_U22.new_zeros(*front, len(places), 2, 2)
        linear_U2 = self.linear_U2.new_zeros(*front, len(places), 2)
        precision_U22[..., known, :, :] = self.precision_U22[..., kept, :, :]
        linear_U2[..., known, :] = self.linear_U2[..., kept, :]
        return Quadratic(self.precision_DD, self.linear_D, precision_U22, linear_U2)

    def convex(self) -> "Quadratic":
        """Without what curves the other way, as votes do that are taken for slips."""
        return Quadratic(
            _clamped(self.precision_DD), self.linear_D, _clamped(self.precision_U22), self.linear_U2
        )

    def __call__(self, flat: Tensor) -> Tensor:
        x_D, own_U2 = split(flat, len(self.linear_U2))
        bent_U2 = (self.precision_U22 @ own_U2.unsqueeze(2)).squeeze(2)
        dense = x_D @ (self.linear_D - 0.5 * self.precision_DD @ x_D)
        return dense + (own_U2 * (self.linear_U2 - 0.5 * bent_U2)).sum()

    def coordinates(self) -> Callable[[Tensor], Tensor]:
        """A member's parameters by others, in which this and a standard normal prior together are round and
        highest at zero: what is fitted beside it then is found in few steps however much it outweighs."""
        to_x_DD, top_D = _rounding(self.precision_DD, self.linear_D)
        to_own_U22, top_U2 = _rounding(self.precision_U22, self.linear_U2)

        def parameters(flat: Tensor) -> Tensor:
            x_D, own_U2 = split(flat, len(top_U2))
            return join(top_D + to_x_DD @ x_D, top_U2 + (to_own_U22 @ own_U2.unsqueeze(2)).squeeze(2))

        return parameters


def _clamped(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    positive: Tensor = (vectors * values.clamp_min(0).unsqueeze(-2)) @ vectors.mT
    return positive


def _rounding(precision: Tensor, linear: Tensor) -> tuple[Tensor, Tensor]:
    """Any square root of (precision + 1)⁻¹, and that times linear."""
    factor = torch.linalg.cholesky(precision + torch.eye(precision.shape[-1], dtype=torch.float64))
    root = torch.linalg.inv(factor).mT
    return root, (root @ (root.mT @ linear.unsqueeze(-1))).squeeze(-1)
