"""This module implements the Laplace approximation of a log-likelihood, which summarises votes in fixed size.

The summary is log P ≈ linear·x − ½ x·precision x, up to a constant, for the free parameters x of an ensemble
member, expanded at the posterior mode (online Laplace: Opper 1998). Summaries of disjoint votes add up, and
scaling a summary scales the weight of its votes. Each rater's parameters are treated as independent of all
others, so the size of a summary is linear in the raters.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.reward.likelihood import NuisanceParameters

SHARED_SIZE = NuisanceParameters.size(0)
"""Number of nuisance parameters that all raters share."""


def split(flat: Tensor, raters: int) -> tuple[Tensor, Tensor]:
    """Splits a member's parameters into (D,) coefficients, bias and shared nuisance parameters, and (U, 2)
    leniency and reliability."""
    head = len(flat) - NuisanceParameters.size(raters)
    raters_U2 = flat[head : head + 2 * raters].view(2, raters).T
    return torch.cat([flat[:head], flat[head + 2 * raters :]]), raters_U2


def join(x_D: Tensor, raters_U2: Tensor) -> Tensor:
    """Inverts `split`."""
    return torch.cat([x_D[:-SHARED_SIZE], raters_U2.T.reshape(-1), x_D[-SHARED_SIZE:]])


@dataclass(frozen=True, slots=True)
class LaplaceSummary:
    """A quadratic log-likelihood of one member; with a leading dimension, of several groups of votes."""

    precision_DD: Tensor
    linear_D: Tensor
    precision_U22: Tensor
    linear_U2: Tensor

    @classmethod
    def zero(cls, groups: int, size: int) -> "LaplaceSummary":
        """Returns the summary of no votes and no raters."""
        return cls(
            torch.zeros(groups, size, size, dtype=torch.float64),
            torch.zeros(groups, size, dtype=torch.float64),
            torch.zeros(groups, 0, 2, 2, dtype=torch.float64),
            torch.zeros(groups, 0, 2, dtype=torch.float64),
        )

    @classmethod
    def stack(cls, summaries: Sequence["LaplaceSummary"]) -> "LaplaceSummary":
        """Returns one summary with the given ones as its groups."""
        columns = zip(*(each.tensors() for each in summaries), strict=True)
        return cls(*(torch.stack(column) for column in columns))

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns the fields, in order."""
        return self.precision_DD, self.linear_D, self.precision_U22, self.linear_U2

    def __add__(self, other: "LaplaceSummary") -> "LaplaceSummary":
        return LaplaceSummary(*(one + two for one, two in zip(self.tensors(), other.tensors(), strict=True)))

    def scaled(self, factor: float) -> "LaplaceSummary":
        """Returns the summary with all votes' weights scaled."""
        return LaplaceSummary(*(factor * tensor for tensor in self.tensors()))

    def sum_groups(self, groups: Sequence[int]) -> "LaplaceSummary":
        """Returns the summary of the votes of these groups together."""
        return LaplaceSummary(*(tensor[list(groups)].sum(0) for tensor in self.tensors()))

    def select_raters(self, indices: Sequence[int | None]) -> "LaplaceSummary":
        """Returns the summary with the raters of these indices, in this order; None adds a rater without
        votes."""
        known = [row for row, index in enumerate(indices) if index is not None]
        kept = [index for index in indices if index is not None]
        front = self.linear_D.shape[:-1]
        precision_U22 = self.precision_U22.new_zeros(*front, len(indices), 2, 2)
        linear_U2 = self.linear_U2.new_zeros(*front, len(indices), 2)
        precision_U22[..., known, :, :] = self.precision_U22[..., kept, :, :]
        linear_U2[..., known, :] = self.linear_U2[..., kept, :]
        return LaplaceSummary(self.precision_DD, self.linear_D, precision_U22, linear_U2)

    def widened(self, at: int, count: int) -> "LaplaceSummary":
        """Returns the summary with `count` more coefficients behind the first `at`, of which its votes say
        nothing."""
        size = len(self.linear_D) + count
        kept = torch.tensor([*range(at), *range(at + count, size)])
        precision_DD = self.precision_DD.new_zeros(size, size)
        precision_DD[kept.unsqueeze(1), kept] = self.precision_DD
        linear_D = self.linear_D.new_zeros(size).index_copy_(0, kept, self.linear_D)
        return LaplaceSummary(precision_DD, linear_D, self.precision_U22, self.linear_U2)

    def positive_semidefinite(self) -> "LaplaceSummary":
        """Returns the summary without negative eigenvalues, which come from votes explained as lapses."""
        return LaplaceSummary(
            _positive_part(self.precision_DD),
            self.linear_D,
            _positive_part(self.precision_U22),
            self.linear_U2,
        )

    def __call__(self, flat: Tensor) -> Tensor:
        """Returns the log-likelihood at a member's parameters, up to a constant, in nats."""
        x_D, raters_U2 = split(flat, len(self.linear_U2))
        product_U2 = (self.precision_U22 @ raters_U2.unsqueeze(2)).squeeze(2)
        dense = x_D @ (self.linear_D - 0.5 * self.precision_DD @ x_D)
        return dense + (raters_U2 * (self.linear_U2 - 0.5 * product_U2)).sum()

    def whitening(self) -> Callable[[Tensor], Tensor]:
        """Returns a map from whitened parameters to a member's. In the former, this summary times a standard
        normal prior is a standard normal, so that an optimizer converges in few steps."""
        to_x_DD, mode_D = _whitening(self.precision_DD, self.linear_D)
        to_raters_U22, mode_U2 = _whitening(self.precision_U22, self.linear_U2)

        def parameters(flat: Tensor) -> Tensor:
            x_D, raters_U2 = split(flat, len(mode_U2))
            scaled_U2 = (to_raters_U22 @ raters_U2.unsqueeze(2)).squeeze(2)
            return join(mode_D + to_x_DD @ x_D, mode_U2 + scaled_U2)

        return parameters


@dataclass(frozen=True, slots=True)
class PackedSummary:
    """A LaplaceSummary of several groups to be kept: of the symmetric precision the lower triangle, in single
    precision, which is a quarter of the size."""

    triangle_GT: Tensor
    linear_GD: Tensor
    precision_GU22: Tensor
    linear_GU2: Tensor

    @classmethod
    def pack(cls, summary: LaplaceSummary) -> "PackedSummary":
        """Packs a summary."""
        row, column = torch.tril_indices(*summary.precision_DD.shape[-2:])
        triangle_GT = summary.precision_DD[:, row, column].float()
        return cls(triangle_GT, summary.linear_D, summary.precision_U22, summary.linear_U2)

    def unpack(self) -> LaplaceSummary:
        """Inverts `pack`, up to rounding."""
        return LaplaceSummary(
            _symmetric(self.triangle_GT.double(), self.linear_GD.shape[-1]),
            self.linear_GD, self.precision_GU22, self.linear_GU2,
        )  # fmt: skip

    def sum_groups(self, groups: Sequence[int]) -> LaplaceSummary:
        """Returns the summary of the votes of these groups together."""
        chosen = list(groups)
        return LaplaceSummary(
            _symmetric(self.triangle_GT[chosen].double().sum(0), self.linear_GD.shape[-1]),
            self.linear_GD[chosen].sum(0), self.precision_GU22[chosen].sum(0), self.linear_GU2[chosen].sum(0),
        )  # fmt: skip


def _symmetric(triangle_T: Tensor, size: int) -> Tensor:
    row, column = torch.tril_indices(size, size)
    full = triangle_T.new_zeros(*triangle_T.shape[:-1], size, size)
    full[..., row, column] = triangle_T
    full[..., column, row] = triangle_T
    return full


def _positive_part(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    positive: Tensor = (vectors * values.clamp_min(0).unsqueeze(-2)) @ vectors.mT
    return positive


def _whitening(precision: Tensor, linear: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a square root of (precision + 1)⁻¹, and (precision + 1)⁻¹ linear."""
    factor = torch.linalg.cholesky(precision + torch.eye(precision.shape[-1], dtype=torch.float64))
    root = torch.linalg.inv(factor).mT
    return root, (root @ (root.mT @ linear.unsqueeze(-1))).squeeze(-1)
