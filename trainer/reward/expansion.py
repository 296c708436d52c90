"""Expansion holds the points around which the votes of a compaction are expanded, so that the Laplace summary
of any of them can be computed: to add it to what is kept of older votes, or to take it out again exactly."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from schemas.settings import RewardSettings
from trainer.reward.ensemble import HistoryPrior, bootstrap, member_groups
from trainer.reward.features import FeatureGroups
from trainer.reward.laplace import SHARED_SIZE, LaplaceSummary, join, split
from trainer.reward.likelihood import Likelihood, Votes
from trainer.reward.posterior import Posterior
from trainer.reward.projection import concatenate, project


@dataclass(frozen=True, slots=True)
class Expansion:
    """The points around which each member's likelihood of some votes is expanded: the `modes` of the
    posterior, with the projected features `inputs` of the replies and the members' bootstrap weights."""

    inputs: FeatureGroups
    modes: list[Tensor]
    bootstrap_MV: Tensor

    def subset(self, replies: Sequence[int], raters: Sequence[int], votes: Sequence[int]) -> "Expansion":
        """Returns the expansion of some of the votes, as `subset` numbers them anew."""
        modes = []
        for number, mode in enumerate(self.modes):
            x_D, raters_U2 = split(mode, (len(mode) - self.size(number)) // 2)
            modes.append(join(x_D, raters_U2[list(raters)]))
        inputs = {name: group[list(replies)] for name, group in self.inputs.items()}
        return Expansion(inputs, modes, self.bootstrap_MV[:, list(votes)])

    def laplace_summary(self, member: int, votes: Votes) -> LaplaceSummary:
        """Returns a member's Laplace summary of the votes."""
        names = member_groups(member, self.inputs)
        inputs = {name: group.float() for name, group in self.inputs.items()}
        features_NK, bootstrap_V = concatenate(inputs, names).double(), self.bootstrap_MV[member]
        posterior = Posterior(features_NK, Likelihood(votes), votes.raters, bootstrap_V, None)
        return posterior.laplace_summary(self.modes[member], bootstrap_V)

    def size(self, member: int) -> int:
        """Returns the number of a member's free parameters that belong to no rater."""
        names = member_groups(member, self.inputs)
        return sum(self.inputs[name].shape[1] for name in names) + 1 + SHARED_SIZE


def subset(votes: Votes, chosen: Sequence[int]) -> tuple[Votes, list[int], list[int]]:
    """Returns the chosen votes, numbered anew, with the replies and the raters that the new numbers stand
    for."""
    vote_of = {vote: number for number, vote in enumerate(chosen)}
    raters = list(dict.fromkeys(votes.rater_of_vote[vote] for vote in chosen))
    rater_of = {rater: number for number, rater in enumerate(raters)}
    replies: dict[int, int] = {}

    def reply(old: int) -> int:
        return replies.setdefault(old, len(replies))

    found = Votes(
        len(raters),
        {rater_of[rater] for rater in votes.judges if rater in rater_of},
        [rater_of[votes.rater_of_vote[vote]] for vote in chosen],
        [votes.weights[vote] for vote in chosen],
    )
    for rows, kept in ((votes.thumbs, found.thumbs), (votes.signals, found.signals)):
        kept += [(vote_of[v], rater_of[u], reply(r), good) for v, u, r, good in rows if v in vote_of]
    for v, u, one, other in votes.edits:
        if v in vote_of:
            found.edits.append((vote_of[v], rater_of[u], reply(one), reply(other)))
    for size, stages in votes.stages.items():
        rows_of_size = [
            (vote_of[v], rater_of[u], [reply(each) for each in on], first, index)
            for v, u, on, first, index in stages
            if v in vote_of
        ]
        if rows_of_size:
            found.stages[size] = rows_of_size
    return found, list(replies), raters


def expansion(
    features: FeatureGroups,
    votes: Votes,
    history: HistoryPrior,
    settings: RewardSettings,
    generator: torch.Generator,
) -> Expansion:
    """Returns the expansion of `votes` at the mode of all of them and the history. Inputs are rounded to half
    precision, in which they are kept."""
    likelihood, projected = Likelihood(votes), project(history.projections, features)
    modes, bootstraps = [], []
    for number, bootstrap_V in enumerate(bootstrap(settings, votes, generator)):
        features_NK = concatenate(projected, member_groups(number, projected)).double()
        posterior = Posterior(features_NK, likelihood, votes.raters, bootstrap_V, history.members[number])
        modes.append(posterior.mode())
        bootstraps.append(bootstrap_V)
    inputs = {name: group.half() for name, group in projected.items()}
    return Expansion(inputs, modes, torch.stack(bootstraps))
