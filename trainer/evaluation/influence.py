"""Influence is how far a candidate's gain rests on one rater, one network, or one cluster of raters.

Without a group of raters, the coefficients of the reward model of the unseen votes move by its posterior
covariance times the group's gradient (the infinitesimal jackknife: Jaeckel 1972), and the gain moves with
them. The standard error stays that of all votes: fewer votes always tell less, and that is nobody's
influence. Where at most two people voted, nobody can be left out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.reward import ensemble
from trainer.reward.ensemble import RewardModel
from trainer.reward.features import FeatureGroups
from trainer.reward.likelihood import Votes

MIN_PEOPLE = 3
"""People whose unseen votes judge a candidate, below which nobody is left out."""


@dataclass(frozen=True, slots=True)
class Influence:
    """For each of G groups of raters, by the members' indices, what it adds to each member's coefficients
    (G, K)."""

    groups: list[tuple[str, ...]]
    shifts: list[Tensor]

    def largest(self, candidate: FeatureGroups, live: FeatureGroups, model: RewardModel) -> tuple[int, float]:
        """Returns the group that adds most to the candidate's mean gain over the live policy, and how much,
        in logits."""
        added_MG = []
        for member, shift_GK in zip(model.members, self.shifts, strict=True):
            difference_K = (member.inputs(candidate) - member.inputs(live)).mean(0)
            added_MG.append(shift_GK @ difference_K)
        added_G = torch.stack(added_MG).mean(0)
        return int(added_G.argmax()), float(added_G.max())


def influence_of(
    model: RewardModel, features: FeatureGroups, votes: Votes, raters: Sequence[str],
    groups: Mapping[str, Iterable[str]],
) -> Influence | None:  # fmt: skip
    """Returns the influence of each of the `raters` of the votes, and of each of the named groups of them."""
    if len(raters) - len(votes.judges) < MIN_PEOPLE:
        return None
    index_of = {rater: index for index, rater in enumerate(raters)}
    members: list[tuple[str, ...]] = [(rater,) for rater in raters]
    members += [tuple(sorted(rater for rater in of if rater in index_of)) for of in groups.values()]
    group_E, rater_E = torch.tensor(
        [(row, index_of[rater]) for row, group in enumerate(members) for rater in group]
    ).T
    rater_V = torch.tensor(votes.rater_of_vote)
    shifts = []
    for _, shift_VK in ensemble.coefficient_shifts(model, features, votes):
        shift_UK = torch.zeros(len(raters), shift_VK.shape[1]).index_add_(0, rater_V, shift_VK)
        shift_GK = torch.zeros(len(members), shift_VK.shape[1])
        shifts.append(shift_GK.index_add_(0, group_E, shift_UK[rater_E]))
    return Influence(members, shifts)
