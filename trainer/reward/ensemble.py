"""This module implements the reward model: an ensemble of Bayesian linear models on features of a reply.

Each member is the maximum a posteriori estimate under the likelihood of all votes (`likelihood`), with rater
parameters of its own, found by L-BFGS. Members differ in the feature groups that they use and in their
bootstrap weights on the votes, so they disagree where votes are few. r is the members' mean less κ times
their std, in logits of a thumb up from an average rater.

The reward is a sigmoid of r, standardised on replies of the base, so that its scale is the same in every
round. The sigmoid saturates: a reply gains little reward from more of what is already liked. Its midpoint is
r = 0, or the 90th percentile of the base's replies where that is lower. The model is fitted afresh in each
round, to newer votes as they are and to older ones by their summary (`vote_summary`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from schemas.settings import RewardSettings
from trainer.reward.features import FeatureGroups
from trainer.reward.laplace import SHARED_SIZE, LaplaceSummary
from trainer.reward.likelihood import Likelihood, NuisanceParameters, Votes
from trainer.reward.posterior import PRIOR_STD, Posterior
from trainer.reward.projection import (
    BaseFeatures,
    Projections,
    VotedFeatures,
    component_count,
    concatenate,
    fit_projections,
    member_features,
    narrow,
    project,
)

MEMBER_FEATURES: tuple[tuple[str, ...], ...] = (
    ("peak", "tokens", "length"),
    ("peak", "last", "mean", "tokens", "length"),
    ("peak", "mean", "tokens", "length"),
    ("peak", "last", "tokens", "length"),
)
"""Feature groups of the members, in turn."""

BOOTSTRAP_SHAPE = 4
"""Shape of the gamma distribution of a member's weights on the votes. 1 is the Bayesian bootstrap (Rubin
1981). Chosen on tests.bench.reward."""

SIGMOID_SCALE = 4.0
"""Factor on r before the sigmoid. At 1 the reward would be the probability of a thumb up; more makes it
steeper."""


@dataclass(frozen=True, slots=True)
class EnsembleMember:
    """One linear model: r = features·coefficients + bias, in logits. `covariance_KK` is the Laplace
    approximation of the coefficients' posterior covariance (MacKay 1992)."""

    projections: Projections
    names: tuple[str, ...]
    coefficients_K: Tensor
    covariance_KK: Tensor
    bias: float
    nuisance: NuisanceParameters

    def __call__(self, features: FeatureGroups) -> Tensor:
        """Returns (N,) logits of a thumb up from an average rater."""
        r_N: Tensor = self.inputs(features) @ self.coefficients_K + self.bias
        return r_N

    def inputs(self, features: FeatureGroups) -> Tensor:
        """Returns the (N, K) projected features that the member uses."""
        return member_features(self.projections, self.names, features)

    def gain(self, features: FeatureGroups, reference: FeatureGroups) -> tuple[Tensor, float]:
        """Returns the (N,) differences in logits between each reply and its reference, and the variance of
        their mean under the posterior of the coefficients."""
        differences_NK = self.inputs(features) - self.inputs(reference)
        mean_K = differences_NK.mean(0)
        return torch.mv(differences_NK, self.coefficients_K), float(mean_K @ self.covariance_KK @ mean_K)


@dataclass(frozen=True, slots=True)
class RewardModel:
    """An ensemble with the uncertainty penalty κ. `midpoint` is the r at the middle of the sigmoid; `mean`
    and `std` are of the sigmoid on replies of the base."""

    members: list[EnsembleMember]
    uncertainty_penalty: float
    midpoint: float = 0.0
    mean: float = 0.0
    std: float = 1.0

    @property
    def reliability_U(self) -> Tensor:
        """The (U,) reliabilities of the raters, averaged over the members."""
        return torch.stack([member.nuisance.reliability_U for member in self.members]).mean(0)

    def logits(self, features: FeatureGroups) -> Tensor:
        """Returns the (N, M) r by member."""
        return torch.stack([member(features) for member in self.members], 1)

    def reward(self, features: FeatureGroups) -> Tensor:
        """Returns (N,) rewards, standardised on replies of the base."""
        sigmoid_N = (SIGMOID_SCALE * (self.penalised(features) - self.midpoint)).sigmoid()
        return (sigmoid_N - self.mean) / self.std

    @property
    def max_reward(self) -> float:
        """The upper bound of the reward."""
        return (1 - self.mean) / self.std

    def penalised(self, features: FeatureGroups) -> Tensor:
        """Returns (N,) mean − κ·std of r over the members."""
        r_NM = self.logits(features)
        return r_NM.mean(1) - self.uncertainty_penalty * r_NM.std(1)

    def standardised(self, base: FeatureGroups) -> "RewardModel":
        """Returns the model with a reward of mean 0 and std 1 on replies of the base."""
        model = replace(self, midpoint=min(0.0, float(self.penalised(base).quantile(0.9))))
        rewards_N = model.reward(base)
        return replace(model, mean=float(rewards_N.mean()), std=max(float(rewards_N.std()), 1e-3))


@dataclass(frozen=True, slots=True)
class HistoryPrior:
    """A prior from history: the summary of older votes for each member, on the raters of the newer votes,
    with the projections that it was made with."""

    projections: Projections
    members: list[LaplaceSummary]


def fit(
    features: FeatureGroups,
    votes: Votes,
    base: BaseFeatures,
    settings: RewardSettings,
    generator: torch.Generator,
    history: HistoryPrior | None = None,
) -> RewardModel:
    """Fits the ensemble to `votes` on the replies of `features`, and to the summary of older votes."""
    likelihood, weight = Likelihood(votes), votes.people_weight
    counts = [component_count(number, weight) for number in range(settings.members)]
    views = _views(features, votes, base, counts, history)
    members = []
    for number, (names, bootstrap_V) in enumerate(bootstrap(settings, votes, generator)):
        projections, groups = views[counts[number]]
        older = history.members[number] if history is not None else None
        features_NK = concatenate(groups, names).double()
        posterior = Posterior(features_NK, likelihood, votes.raters, bootstrap_V, older)
        members.append(_fit_member(projections, names, posterior))
    return RewardModel(members, settings.uncertainty_penalty).standardised(base.groups)


def parameter_count(projections: Projections, member: int) -> int:
    """Returns the number of a member's free parameters that belong to no rater."""
    names = MEMBER_FEATURES[member % len(MEMBER_FEATURES)]
    return sum(projections[name].basis_DK.shape[1] for name in names) + 1 + SHARED_SIZE


def _views(
    features: FeatureGroups,
    votes: Votes,
    base: BaseFeatures,
    counts: Sequence[int],
    history: HistoryPrior | None,
) -> dict[int, tuple[Projections, FeatureGroups]]:
    """Returns for each number of components the projections and the projected features of the replies; those
    of the history, where there is one."""
    if history is not None:
        return dict.fromkeys(counts, (history.projections, project(history.projections, features)))
    voted = VotedFeatures(features, votes.compared(len(next(iter(features.values())))))
    widest = fit_projections(base, max(counts), voted)
    projected = project(widest, features)
    views = {}
    for count in set(counts):
        projections = narrow(widest, count, base)
        groups = {
            name: group_NK[:, -count:] * (projections[name].scale / widest[name].scale)
            for name, group_NK in projected.items()
        }
        views[count] = projections, groups
    return views


def bootstrap(
    settings: RewardSettings, votes: Votes, generator: torch.Generator
) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """Yields the feature groups and the (V,) bootstrap weights of each member."""
    for number in range(settings.members):
        draws_SV = torch.empty(BOOTSTRAP_SHAPE, votes.count, dtype=torch.float64)
        draws_SV.exponential_(generator=generator)
        yield MEMBER_FEATURES[number % len(MEMBER_FEATURES)], draws_SV.mean(0)


def _fit_member(projections: Projections, names: tuple[str, ...], posterior: Posterior) -> EnsembleMember:
    width = posterior.features_NK.shape[1]
    mode = posterior.mode()
    return EnsembleMember(
        projections,
        names,
        (PRIOR_STD * mode[:width]).float(),
        (PRIOR_STD**2 * posterior.covariance_KK(mode)).float(),
        float(mode[width]),
        NuisanceParameters.unpack(mode[width + 1 :], posterior.raters),
    )


@dataclass(frozen=True, slots=True)
class Influence:
    """The influence of each vote, and of all votes of each rater: the change of the voted replies' r without
    them (root mean square, in logits); and the raters' parameters, averaged over the members."""

    votes_V: Tensor
    raters_U: Tensor
    reliability_U: Tensor
    leniency_U: Tensor


def influence(model: RewardModel, features: FeatureGroups, votes: Votes) -> Influence:
    """Computes influence functions (Koh and Liang 2017), to first order, of the votes that `model` was fitted
    to."""
    likelihood = Likelihood(votes)
    rater_V = torch.tensor(votes.rater_of_vote)
    by_vote, by_rater = [], []
    for member in model.members:
        inputs_NK = member.inputs(features)
        r_N = (inputs_NK @ member.coefficients_K + member.bias).double()
        vote, reply, gradient = likelihood.gradients(r_N, member.nuisance)
        gradients_VK = torch.zeros(votes.count, inputs_NK.shape[1]).index_add_(
            0, vote, gradient.float().unsqueeze(1) * inputs_NK[reply]
        )
        gradients_UK = torch.zeros(votes.raters, inputs_NK.shape[1]).index_add_(0, rater_V, gradients_VK)
        effect_KK = member.covariance_KK @ (inputs_NK.T @ inputs_NK / len(inputs_NK)) @ member.covariance_KK
        by_vote.append(((gradients_VK @ effect_KK) * gradients_VK).sum(1).clamp_min(0).sqrt())
        by_rater.append(((gradients_UK @ effect_KK) * gradients_UK).sum(1).clamp_min(0).sqrt())
    return Influence(
        torch.stack(by_vote).mean(0),
        torch.stack(by_rater).mean(0),
        model.reliability_U,
        torch.stack([member.nuisance.leniency_U for member in model.members]).mean(0),
    )


def pairwise_accuracy(reward_N: Tensor, votes: Votes) -> float | None:
    """Returns the share of (thumbed-up, thumbed-down) pairs of replies that the reward orders correctly, ties
    counting half; None without such a pair."""
    up = [reply for _, _, reply, liked in votes.thumbs if liked]
    down = [reply for _, _, reply, liked in votes.thumbs if not liked]
    if not up or not down:
        return None
    gaps = reward_N[up].unsqueeze(1) - reward_N[down].unsqueeze(0)
    return float((gaps > 0).float().mean() + 0.5 * (gaps == 0).float().mean())
