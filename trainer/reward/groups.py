"""Groups are people whose tastes are alike, found by k-means on their weights (Lloyd 1982).

They are made only where a project wants the policy to please the group that it pleases least, too. A group
counts if it has enough of the people: nobody can make the reward their own by being alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.reward.tastes import PersonWeights

MIN_SHARE = 0.15
"""Least share of the people, by what is known of each, that makes a group."""

MIN_PEOPLE = 3
"""Least people of a group."""

KNOWN = 0.2
"""How much must be known of a person to be counted as one of a group: two votes of a reliable rater."""

_ITERATIONS = 20


@dataclass(frozen=True, slots=True)
class Groups:
    """The (G, T) weights at the middle of each group, each group's share of the people, and the r at the
    middle of its sigmoid."""

    weights_GT: Tensor
    share_G: Tensor
    midpoint_G: Tensor

    @classmethod
    def of(cls, people: PersonWeights) -> "Groups | None":
        """Returns the groups of these people, one more than there are directions at most; None where all
        are one group."""
        weights_UT, known_U = people.mean_UT, people.known_U
        centres_GT = _farthest(weights_UT * known_U.unsqueeze(1), weights_UT.shape[1] + 1)
        member_UG = torch.empty(0)
        for _ in range(_ITERATIONS):
            nearest_U = torch.cdist(weights_UT, centres_GT).argmin(1)
            member_UG = torch.nn.functional.one_hot(nearest_U, len(centres_GT)) * known_U.unsqueeze(1)
            total_G1 = member_UG.sum(0).clamp_min(1e-9).unsqueeze(1)
            centres_GT = member_UG.T @ weights_UT / total_G1
        share_G = member_UG.sum(0) / member_UG.sum().clamp_min(1e-9)
        large = (share_G >= MIN_SHARE) & ((member_UG > KNOWN).sum(0) >= MIN_PEOPLE)
        if int(large.sum()) < 2:
            return None
        weights_GT = centres_GT[large].float()
        return cls(weights_GT, share_G[large].float(), torch.zeros(len(weights_GT)))


def _farthest(weights_UT: Tensor, count: int) -> Tensor:
    """Returns `count` of the weights, each the farthest from those before it, the first the farthest from
    0."""
    chosen = [int(weights_UT.norm(dim=1).argmax())]
    while len(chosen) < count:
        chosen.append(int(torch.cdist(weights_UT, weights_UT[chosen]).amin(1).argmax()))
    return weights_UT[chosen]
