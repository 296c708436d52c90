"""This module projects features onto the principal components of the base's within-prompt variation.

What all replies to one prompt share is the prompt's subject, which a policy cannot choose. So the components
are computed after each prompt's mean is subtracted.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.reward.features import FeatureGroups

COMPONENTS = (24, 48, 96)
"""Components of each feature group, for the members of the ensemble in turn. Chosen on tests.bench.reward:
few are more accurate after 400 votes, many tell more styles apart after 1,000."""

FEW_VOTES = 400
"""Votes up to which COMPONENTS holds. Beyond, the count grows with the square of the votes, up to the
largest of COMPONENTS."""

UNSCALED = ("tokens", "length")
"""Feature groups that are between 0 and 1 and are only centred."""


@dataclass(frozen=True, slots=True)
class BaseFeatures:
    """Features of replies of the base, `samples_per_prompt` consecutive rows to each prompt."""

    groups: FeatureGroups
    samples_per_prompt: int


@dataclass(frozen=True, slots=True)
class Projection:
    """A projection standardises one feature group on the base's replies and reduces it by `basis_DK`."""

    mean_D: Tensor
    std_D: Tensor
    basis_DK: Tensor
    scale: float

    @classmethod
    def fit(cls, name: str, features_ND: Tensor, samples_per_prompt: int, components: int) -> "Projection":
        """Fits the projection of group `name` to the base's features, ordered as in BaseFeatures."""
        mean_D = features_ND.mean(0)
        std_D = torch.ones_like(mean_D) if name in UNSCALED else features_ND.std(0).clamp_min(1e-3)
        scaled_ND = ((features_ND - mean_D) / std_D).clamp(-4, 4)
        scaled_PKD = scaled_ND.view(-1, samples_per_prompt, features_ND.shape[1])
        within_ND = (scaled_PKD - scaled_PKD.mean(1, keepdim=True)).flatten(0, 1)
        basis_DK = principal_components(within_ND, components)
        norm = float((scaled_PKD @ basis_DK).square().sum(2).mean().sqrt())
        return cls(mean_D, std_D, basis_DK, 1 / max(norm, 1e-6))

    def __call__(self, features_ND: Tensor) -> Tensor:
        """Returns the (N, K) projected features, with a mean square norm of 1 on the base's replies."""
        scaled_ND = ((features_ND.float() - self.mean_D) / self.std_D).clamp(-4, 4)
        projected_NK: Tensor = torch.matmul(scaled_ND, self.basis_DK) * self.scale
        return projected_NK


Projections = dict[str, Projection]
"""Projections by the name of their feature group."""


def fit_projections(base: BaseFeatures, components: int) -> Projections:
    """Fits a projection to each feature group of the base's replies."""
    return {
        name: Projection.fit(name, group_ND.float(), base.samples_per_prompt, components)
        for name, group_ND in base.groups.items()
    }


def component_count(member: int, votes: int) -> int:
    """Returns the number of components that a member uses after so many votes."""
    few, most = COMPONENTS[member % len(COMPONENTS)], max(COMPONENTS)
    return round(min(most, max(few, few * (votes / FEW_VOTES) ** 2)))


def principal_components(rows_ND: Tensor, most: int) -> Tensor:
    """Returns the (D, K) orthonormal directions of largest second moment of the rows, at most `most`."""
    values, vectors_NN = torch.linalg.eigh((rows_ND @ rows_ND.T).double())
    kept = values > 1e-6 * values[-1]
    values, vectors_NN = values[kept][-most:], vectors_NN[:, kept][:, -most:]
    return torch.matmul(rows_ND.T, (vectors_NN / values.sqrt()).float())


def member_features(projections: Projections, names: tuple[str, ...], features: FeatureGroups) -> Tensor:
    """Returns the (N, K) inputs of a member that uses the groups `names`, with a mean square norm of about 1
    on the base's replies."""
    return concatenate({name: projections[name](features[name]) for name in names}, names)


def project(projections: Projections, features: FeatureGroups) -> FeatureGroups:
    """Projects each feature group, once for all members."""
    return {name: projection(features[name]) for name, projection in projections.items()}


def concatenate(projected: FeatureGroups, names: tuple[str, ...]) -> Tensor:
    """Joins projected groups into the (N, K) inputs of a member that uses the groups `names`."""
    return torch.cat([projected[name] for name in names], 1).div(len(names) ** 0.5)
