"""This module finds clusters of raters who vote alike beyond chance, and counts each of them as one person.

A vote pushes the reward along the gradient of its log-likelihood. Given the reward of all votes, the pushes
of different people are independent, so the products of their sums have mean 0 and a known variance. Raters
whose pushes agree beyond that are found by spectral clustering of the standardised products: a leading
eigenvector is where to begin, and then members are those who agree with the other members. How far all
members agree is tested against the same search with random signs of the votes (a wild bootstrap: Wu 1986). A
rater's votes are taken in parts by time, so that whoever turns can be seen from then on.

A large group that votes alike has a taste, which `tastes` models. A small one that is no different from a
plot counts as much as one of the other people: few who agree on one thing must not outweigh many who do not
care.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainer.reward.change_points import find_turned
from trainer.reward.features import FeatureGroups
from trainer.reward.likelihood import Likelihood, NuisanceParameters, Votes
from trainer.reward.posterior import PRIOR_STD, Posterior
from trainer.reward.projection import (
    COMPONENTS,
    BaseFeatures,
    VotedFeatures,
    concatenate,
    fit_projections,
    project,
)

MAX_PEOPLE = 0.2
"""Share of the people up to which a group that votes alike is a cluster."""

MIN_PEOPLE = 10
"""People with a part each, below which there are no clusters."""

PART, MIN_VOTES = 8, 4
"""Votes of a rater that are taken together, and fewest that are compared."""

MAX_PARTS = 400
"""Parts that are compared, those with the most votes: the time grows with their cube."""

MAX_CLUSTERS, STARTS = 4, 3
"""Most clusters that are found, and eigenvectors from which each is looked for."""

FLIPS = 19
"""Searches with random signs that a cluster must be beyond: an error of 5%. Chosen on tests.bench.attacks,
as are the next two."""

MEMBER_ERRORS = 2.0
"""Standard errors by which a member agrees with the others, and by half of which each part does. They are of
the votes' own spread, so four votes that all agree reach 2."""

RIDGE = 1.0
"""What is added to the variance of each direction of the features, relative to the mean variance."""

NAMES = ("peak", "last", "mean", "tokens", "length")
"""Feature groups by which votes are compared: all."""

_ITERATIONS = 40  # of L-BFGS
_STEPS = 8  # from the start to members that stay


@dataclass(frozen=True, slots=True)
class Cluster:
    """The votes and raters of a cluster, and those of the votes that are by raters who turned
    (`change_points`). `agreement` is the sum of the raters' in standard errors, `chance` the largest of FLIPS
    searches with random signs."""

    votes: list[int]
    raters: list[int]
    turned: list[int]
    agreement: float
    chance: float

    def as_json(self) -> dict[str, float]:
        return {
            "raters": len(self.raters), "votes": len(self.votes), "agreement": round(self.agreement, 2),
            "chance": round(self.chance, 2),
        }  # fmt: skip


def find_clusters(features: FeatureGroups, votes: Votes, base: BaseFeatures) -> list[Cluster]:
    """Returns the clusters, those that agree most first, given the features of the voted replies."""
    part_V = parts_of(votes)
    rater_V = torch.tensor(votes.rater_of_vote)
    if len(set(rater_V[part_V >= 0].tolist())) < MIN_PEOPLE:
        return []
    parts = _Parts.of(part_V, rater_V, _pushes(_whitened(features, votes, base), votes))
    generator = torch.Generator().manual_seed(0)
    chance = max(parts.flipped(generator).search().agreement for _ in range(FLIPS))
    found: list[Cluster] = []
    for _ in range(MAX_CLUSTERS):
        best = parts.search()
        if best.agreement <= chance:
            break
        chosen_V = torch.isin(part_V, best.members_P.nonzero().flatten())
        chosen: list[int] = chosen_V.nonzero().flatten().tolist()
        raters = sorted({votes.rater_of_vote[vote] for vote in chosen})
        changed = find_turned(_orders(part_V, votes.rater_of_vote, best.members_P))
        turned = [vote for vote in chosen if votes.rater_of_vote[vote] in changed]
        found.append(Cluster(chosen, raters, turned, best.agreement, chance))
        parts = replace(parts, free_P=parts.free_P & ~best.members_P)
    return found


def cluster_factors(votes: Votes, clusters: Sequence[Cluster]) -> dict[int, float]:
    """Returns the factors on the weights of the clusters' votes, with which each cluster weighs as much as
    one of the other people."""
    signals = {vote for vote, _, _, _ in votes.signals}
    inside = {vote for cluster in clusters for vote in cluster.votes}
    others: dict[int, float] = {}
    for vote, rater in enumerate(votes.rater_of_vote):
        if vote not in inside and vote not in signals and rater not in votes.judges:
            others[rater] = others.get(rater, 0.0) + votes.weights[vote]
    person = sum(others.values()) / max(1, len(others))
    factors: dict[int, float] = {}
    for cluster in clusters:
        total = sum(votes.weights[vote] for vote in cluster.votes)
        factors |= dict.fromkeys(cluster.votes, min(1.0, person / total) if total > 0 else 1.0)
    return factors


def parts_of(votes: Votes) -> Tensor:
    """Returns the (V,) part of each vote: a rater's votes in order, PART at a time; -1 for signals, judges'
    votes, parts with few votes and those beyond MAX_PARTS."""
    signals = {vote for vote, _, _, _ in votes.signals}
    seen: dict[int, int] = {}
    parts: dict[tuple[int, int], list[int]] = {}
    for vote, rater in enumerate(votes.rater_of_vote):
        if vote not in signals and rater not in votes.judges:
            number = seen[rater] = seen.get(rater, -1) + 1
            parts.setdefault((rater, number // PART), []).append(vote)
    kept = sorted((of for of in parts.values() if len(of) >= MIN_VOTES), key=lambda of: (len(of), of[-1]))
    part_V = torch.full((votes.count,), -1)
    for number, of in enumerate(kept[-MAX_PARTS:]):
        part_V[of] = number
    return part_V


def _orders(part_V: Tensor, rater_of_vote: Sequence[int], members_P: Tensor) -> dict[int, list[bool]]:
    """Returns by rater whether each of their parts, in the order of time, is in the cluster of these members;
    of the raters who have one there."""
    inside: list[bool] = members_P.tolist()
    parts: dict[int, dict[int, bool]] = {}
    for rater, part in zip(rater_of_vote, part_V.tolist(), strict=True):
        if part >= 0:
            parts.setdefault(rater, {})[part] = inside[part]
    return {rater: list(of.values()) for rater, of in parts.items() if any(of.values())}


@dataclass(frozen=True, slots=True)
class _Found:
    """The parts of a cluster, and the sum of its raters' agreement."""

    agreement: float
    members_P: Tensor


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts: the index of each vote's (V,), -1 where it is not compared; their raters (P,), and which of
    them are in no cluster yet; the pushes of the votes (V, K), and of the parts (P, K) with their second
    moments (P, K, K) and the variance of their products (P, P)."""

    part_V: Tensor
    rater_P: Tensor
    free_P: Tensor
    votes_VK: Tensor
    sum_PK: Tensor
    moment_PKK: Tensor
    variance_PP: Tensor

    @classmethod
    def of(cls, part_V: Tensor, rater_V: Tensor, votes_VK: Tensor) -> "_Parts":
        kept = part_V >= 0
        part_V, votes_VK = part_V[kept], votes_VK[kept]
        count = int(part_V.max()) + 1
        rater_P = torch.zeros(count, dtype=torch.long).index_copy_(0, part_V, rater_V[kept])
        by_part = [votes_VK[part_V == part] for part in range(count)]
        moment_PKK = torch.stack([pushes_BK.T @ pushes_BK for pushes_BK in by_part])
        flat = moment_PKK.flatten(1)
        return cls(
            part_V, rater_P, torch.ones(count, dtype=torch.bool), votes_VK,
            torch.stack([pushes_BK.sum(0) for pushes_BK in by_part]), moment_PKK, flat @ flat.T,
        )  # fmt: skip

    def flipped(self, generator: torch.Generator) -> "_Parts":
        """Returns the parts with random signs of the votes."""
        signs_V1 = torch.randint(0, 2, (len(self.votes_VK), 1), generator=generator).double() * 2 - 1
        sum_PK = torch.zeros_like(self.sum_PK).index_add_(0, self.part_V, self.votes_VK * signs_V1)
        return replace(self, sum_PK=sum_PK)

    def search(self) -> _Found:
        """Returns the parts that agree most; none where no two raters do."""
        likeness_PP = self.sum_PK @ self.sum_PK.T / self.variance_PP.clamp_min(1e-12).sqrt()
        likeness_PP = (likeness_PP - likeness_PP.diag().diag()) * self.free_P * self.free_P.unsqueeze(1)
        _, vectors = torch.linalg.eigh(likeness_PP)
        best = _Found(0.0, torch.zeros_like(self.free_P))
        for vector_P in (sign * vectors[:, -start] for start in range(1, STARTS + 1) for sign in (1, -1)):
            found = self._members(vector_P > 0.5 / len(vector_P) ** 0.5)
            best = max(best, found, key=lambda each: each.agreement)
        return best

    def _members(self, members_P: Tensor) -> _Found:
        """Returns the parts that agree with each other, beginning with these."""
        for _ in range(_STEPS):
            agreement_P = self._agreement(members_P)
            before_P, members_P = members_P, (agreement_P > MEMBER_ERRORS) & self.free_P
            if torch.equal(members_P, before_P):
                break
        of_rater = dict(zip(self.rater_P[members_P].tolist(), agreement_P[members_P].tolist(), strict=True))
        people = len(set(self.rater_P.tolist()))
        if not 1 < len(of_rater) <= MAX_PEOPLE * people:
            return _Found(0.0, torch.zeros_like(self.free_P))
        return _Found(sum(of_rater.values()), members_P)

    def _agreement(self, members_P: Tensor) -> Tensor:
        """Returns for each part that agrees with the members' pushes the (P,) agreement of its rater, in
        standard errors, in all such parts; 0 for the others. The rater's own pushes are left out."""
        own_PP = self.rater_P.unsqueeze(0) == self.rater_P.unsqueeze(1)
        direction_PK = (members_P & ~own_PP).double() @ self.sum_PK
        product_P = (direction_PK * self.sum_PK).sum(1)
        variance_P = torch.einsum("pk,pkl,pl->p", direction_PK, self.moment_PKK, direction_PK)
        agrees_P = product_P > MEMBER_ERRORS / 2 * variance_P.sqrt()
        together_PP = (own_PP & agrees_P).double()
        of_rater_P = (together_PP @ product_P) / (together_PP @ variance_P).clamp_min(1e-12).sqrt()
        return torch.where(agrees_P, of_rater_P, 0.0)


def _whitened(features: FeatureGroups, votes: Votes, base: BaseFeatures) -> Tensor:
    """Returns the (R, K) projected features of the replies, whose directions vary alike up to RIDGE."""
    voted = VotedFeatures(features, votes.compared(len(next(iter(features.values())))))
    projected = project(fit_projections(base, min(COMPONENTS), voted), features)
    rows_RK = concatenate(projected, NAMES).double()
    rows_RK = rows_RK - rows_RK.mean(0)
    values_K, vectors_KK = torch.linalg.eigh(rows_RK.T @ rows_RK / len(rows_RK))
    white_RK: Tensor = rows_RK @ (vectors_KK / (values_K + RIDGE * values_K.mean()).sqrt())
    white_RK /= white_RK.shape[1] ** 0.5
    return white_RK


def _pushes(features_RK: Tensor, votes: Votes) -> Tensor:
    """Returns the (V, K) pushes of the votes given the reward of all, as if all raters were reliable."""
    likelihood, width = Likelihood(votes), features_RK.shape[1]
    everything_V = torch.ones(votes.count, dtype=torch.float64)
    mode = Posterior(features_RK, likelihood, votes.raters, everything_V, None).mode(None, _ITERATIONS)
    nuisance = NuisanceParameters.unpack(mode[width + 1 :], votes.raters)
    nuisance = replace(nuisance, reliability_U=torch.ones_like(nuisance.reliability_U))
    r_R = PRIOR_STD * (features_RK @ mode[:width]) + mode[width]
    vote, reply, gradient = likelihood.gradients(r_R, nuisance)
    pushes_VK = features_RK.new_zeros(votes.count, width)
    return pushes_VK.index_add_(0, vote, gradient.unsqueeze(1) * features_RK[reply])
