"""This module writes the taste model of a policy: its reward model, as serving evaluates it.

Standardised features enter linearly, so the projections and the coefficients of a member become one weight
for each feature and taste: the file's size does not depend on the number of components. The last direction is
the mean once more, without its bias: a person may go along with everybody less than others do, or more. What
an auxiliary model adds is left out, since serving does not have it.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from schemas.taste_model import METADATA, TasteHeader
from trainer.model.backbone import Backbone
from trainer.reward.ensemble import EnsembleMember, RewardModel
from trainer.reward.features import (
    AUXILIARY,
    LENGTH_SOFTNESS,
    LENGTH_THRESHOLDS,
    MAX_MAGNITUDE,
    MAX_TOKENS,
    select_layers,
)
from trainer.reward.projection import RATE_SMOOTHING, Projection


def write(model: RewardModel, backbone: Backbone, path: Path) -> None:
    """Writes the taste model of a reward model."""
    header = TasteHeader(
        base_digest=backbone.digest,
        directions=0 if model.people is None else 1 + model.people.mean_UT.shape[1],
        members=len(model.members),
        layers=select_layers(backbone),
        think_ids=backbone.think_ids,
        lengths=list(LENGTH_THRESHOLDS),
        softness=LENGTH_SOFTNESS,
        max_tokens=MAX_TOKENS,
        rate_smoothing=RATE_SMOOTHING,
        max_magnitude=MAX_MAGNITUDE,
        ranking_scale=float(torch.stack([each.nuisance.ranking_scale for each in model.members]).mean()),
        caution=model.uncertainty_penalty,
    )
    save_file(tensors(model), path, metadata={METADATA: header.model_dump_json()})


def tensors(model: RewardModel) -> dict[str, Tensor]:
    """Returns the tensors of the taste model, as `schemas.taste_model` has them."""
    projections: dict[str, Projection] = {}
    for member in model.members:
        projections |= {name: member.projections[name] for name in member.names if name != AUXILIARY}
    found = {"bias": torch.stack([_bias(member) for member in model.members])}
    for name, projection in projections.items():
        weights_MCD = torch.stack([_weights(member, name, projection) for member in model.members])
        found[f"{name}.weights"] = weights_MCD.float().contiguous()
        if projection.vocabulary_D is not None:
            found[f"{name}.vocabulary"] = projection.vocabulary_D.long().contiguous()
            found["bias"] = found["bias"] - weights_MCD @ projection.mean_D
        else:
            found[f"{name}.mean"] = projection.mean_D.float().contiguous()
            found[f"{name}.std"] = projection.std_D.float().contiguous()
    return found


def _bias(member: EnsembleMember) -> Tensor:
    directions = 0 if member.directions is None else 1 + len(member.directions.coefficients_TK)
    return torch.tensor([member.bias, *[0.0] * directions])


def _weights(member: EnsembleMember, name: str, like: Projection) -> Tensor:
    """Returns the (C, D) weight of each standardised feature of a group, for each taste; zeros where the
    member does not use the group."""
    mean_1K = member.coefficients_K.unsqueeze(0)
    directions = member.directions
    coefficients_CK = (
        mean_1K if directions is None else torch.cat([mean_1K, directions.coefficients_TK, mean_1K])
    )
    if name not in member.names:
        return torch.zeros(len(coefficients_CK), len(like.mean_D))
    return member.weights(name, coefficients_CK)
