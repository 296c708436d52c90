"""This module implements the reward model: an ensemble of Bayesian linear models on features of a reply.

Each member is the maximum a posteriori estimate under the likelihood of all votes (`likelihood`), with rater
parameters of its own, found by L-BFGS. Members differ in the feature groups that they use and in their
bootstrap weights on the votes, so they disagree where votes are few. r is the members' mean less κ times
their std, in logits of a thumb up from an average rater.

The reward is a sigmoid of r, standardised on replies of the base, so that its scale is the same in every
round. The sigmoid saturates: a reply gains little reward from more of what is already liked. Its midpoint is
r = 0, or the 90th percentile of the base's replies where that is lower. The model is fitted afresh in each
round, to newer votes as they are and to older ones by their summary (`vote_summary`).

Where people's tastes differ (`tastes`), each member has directions beside its coefficients, r is everybody's
mean, and the reward may count the group of people that is pleased least as much as the mean.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from schemas.settings import RewardSettings
from trainer.reward.features import AUXILIARY, FeatureGroups
from trainer.reward.groups import Groups
from trainer.reward.laplace import SHARED_SIZE, LaplaceSummary
from trainer.reward.likelihood import Likelihood, NuisanceParameters, Votes
from trainer.reward.lora_heads import LORA_HEADS
from trainer.reward.posterior import PRIOR_STD, Posterior
from trainer.reward.projection import (
    RATE_SMOOTHING,
    RATES,
    TOKENS,
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
from trainer.reward.tastes import (
    DIRECTION_SCALE,
    PersonWeights,
    RaterRows,
    fit_weights,
    posterior_weights,
)
from trainer.reward.token_values import TokenValues
from trainer.reward.variable_selection import VariableSelection

MEMBER_FEATURES: tuple[tuple[str, ...], ...] = (
    ("peak", "tokens", "rates", "length"),
    ("peak", "last", "mean", "tokens", "rates", "length"),
    ("peak", "mean", "tokens", "rates", "length"),
    ("peak", "last", "tokens", "rates", "length"),
)
"""Feature groups of the members, in turn; each has the auxiliary model's too, where there is one."""

TASTE_FEATURES = MEMBER_FEATURES[1]
"""Feature groups from which people's weights on tastes are fitted: all that serving has."""

TASTE_COMPONENTS = 12
"""Components of each of these groups, the largest, since each person has few votes. Chosen on
tests.bench.ten_clicks."""

FIRST_ITERATIONS = 40
"""Iterations of L-BFGS of the first fit, of which only the raters' reliabilities are used."""

BOOTSTRAP_SHAPE = 4
"""Shape of the gamma distribution of a member's weights on the votes. 1 is the Bayesian bootstrap (Rubin
1981). Chosen on tests.bench.reward."""

SIGMOID_SCALE = 4.0
"""Factor on r before the sigmoid. At 1 the reward would be the probability of a thumb up; more makes it
steeper."""


@dataclass(frozen=True, slots=True)
class Directions:
    """The directions of a member in which tastes differ, (T, K), and the covariance of its coefficients with
    themselves and with the directions' (K, (1 + T)·K)."""

    coefficients_TK: Tensor
    covariance_KD: Tensor


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
    directions: Directions | None = None

    def __call__(self, features: FeatureGroups) -> Tensor:
        """Returns (N,) logits of a thumb up from an average rater."""
        r_N: Tensor = self.inputs(features) @ self.coefficients_K + self.bias
        return r_N

    def inputs(self, features: FeatureGroups) -> Tensor:
        """Returns the (N, K) projected features that the member uses."""
        return member_features(self.projections, self.names, features)

    def values(self, features: FeatureGroups) -> Tensor:
        """Returns (N, 1 + T) values: r, and that of each direction."""
        inputs_NK = self.inputs(features)
        r_N1 = (inputs_NK @ self.coefficients_K + self.bias).unsqueeze(1)
        if self.directions is None:
            return r_N1
        return torch.cat([r_N1, inputs_NK @ self.directions.coefficients_TK.T], 1)

    def weights(self, name: str, coefficients_CK: Tensor) -> Tensor:
        """Returns the (C, D) weights that coefficients of the inputs give the standardised features of a
        group that the member uses; of a group of tokens, those of the features as they are."""
        widths = [self.projections[each].basis_DK.shape[1] for each in self.names]
        own_CK = torch.split(coefficients_CK, widths, 1)[self.names.index(name)]
        projection = self.projections[name]
        scale = projection.scale / len(self.names) ** 0.5
        own_CD: Tensor = scale * own_CK @ projection.basis_DK.T
        return own_CD if projection.vocabulary_D is None else own_CD / projection.std_D

    def token_values(self, length: float, vocabulary: int) -> tuple[Tensor, Tensor]:
        """Returns the (V,) changes of r, in logits, by the occurrence of each token, as far as the base's
        replies do not have it anyway, and by its rate in a reply of so many tokens."""
        occurrence_V, rate_V = torch.zeros(vocabulary), torch.zeros(vocabulary)
        for name in (name for name in self.names if name in (TOKENS, RATES)):
            projection, weights_D = self.projections[name], self.weights(name, self.coefficients_K[None])[0]
            assert projection.vocabulary_D is not None  # noqa: S101  (groups of tokens have one)
            if name == TOKENS:
                occurrence_V.index_add_(0, projection.vocabulary_D, weights_D * (1 - projection.mean_D))
            else:
                rate_V.index_add_(0, projection.vocabulary_D, weights_D / (length + RATE_SMOOTHING))
        return occurrence_V, rate_V

    def gain(self, features: FeatureGroups, reference: FeatureGroups) -> tuple[Tensor, float]:
        """Returns the (N,) differences in logits between each reply and its reference, and the variance of
        their mean under the posterior of the coefficients."""
        differences_NK = self.inputs(features) - self.inputs(reference)
        mean_K = differences_NK.mean(0)
        return torch.mv(differences_NK, self.coefficients_K), float(mean_K @ self.covariance_KK @ mean_K)


@dataclass(frozen=True, slots=True)
class RewardModel:
    """An ensemble with the uncertainty penalty κ. `midpoint` is the r at the middle of the sigmoid; `mean`
    and `std` are of the sigmoid on replies of the base. `people` has the raters' weights where tastes differ,
    `groups` the weights of the groups of people that the reward counts beside the mean. `lora_share` is the
    part of r that comes from the members' heads (`lora_heads`), whose logits are then among the features."""

    members: list[EnsembleMember]
    uncertainty_penalty: float
    midpoint: float = 0.0
    mean: float = 0.0
    std: float = 1.0
    people: PersonWeights | None = None
    groups: Groups | None = None
    lora_share: float = 0.0

    @property
    def reliability_U(self) -> Tensor:
        """The (U,) reliabilities of the raters, averaged over the members."""
        return torch.stack([member.nuisance.reliability_U for member in self.members]).mean(0)

    def describe_tastes(self) -> dict[str, Any]:
        """Returns the number of tastes, and each group's share of the people where groups count."""
        directions = 0 if self.people is None else self.people.mean_UT.shape[1]
        found: dict[str, Any] = {"tastes": 1 + directions}
        if self.groups is not None:
            found["groups"] = [round(share, 3) for share in self.groups.share_G.tolist()]
        return found

    def logits(self, features: FeatureGroups) -> Tensor:
        """Returns the (N, M) r by member."""
        r_NM = torch.stack([member(features) for member in self.members], 1)
        return r_NM.lerp(features[LORA_HEADS], self.lora_share) if self.lora_share else r_NM

    def reward(self, features: FeatureGroups) -> Tensor:
        """Returns (N,) rewards, standardised on replies of the base."""
        sigmoid_N = (SIGMOID_SCALE * (self.penalised(features) - self.midpoint)).sigmoid()
        if self.groups is not None:
            r_NG = self._of_groups(features, self.groups)
            least_N = (SIGMOID_SCALE * (r_NG - self.groups.midpoint_G)).sigmoid().amin(1)
            sigmoid_N = (sigmoid_N + least_N) / 2
        return (sigmoid_N - self.mean) / self.std

    @property
    def max_reward(self) -> float:
        """The upper bound of the reward."""
        return (1 - self.mean) / self.std

    def token_values(self, length: float, vocabulary: int) -> TokenValues:
        """Returns the values of tokens in a reply of so many tokens (`EnsembleMember.token_values`), the
        members' mean."""
        of_members = [each.token_values(length, vocabulary) for each in self.members]
        occurrence_V, rate_V = (torch.stack(each).mean(0) for each in zip(*of_members, strict=True))
        room = -float(torch.tensor(self.mean).logit()) / SIGMOID_SCALE
        return TokenValues(occurrence_V, rate_V, max(0.0, room), SIGMOID_SCALE)

    def penalised(self, features: FeatureGroups) -> Tensor:
        """Returns (N,) mean − κ·std of r over the members."""
        r_NM = self.logits(features)
        return r_NM.mean(1) - self.uncertainty_penalty * r_NM.std(1)

    def values(self, features: FeatureGroups) -> Tensor:
        """Returns (N, 1 + T) values: the members' mean of r, and of each direction."""
        return torch.stack([member.values(features) for member in self.members]).mean(0)

    def _of_groups(self, features: FeatureGroups, groups: Groups) -> Tensor:
        """Returns the (N, G) penalised r of each group."""
        values_MNC = torch.stack([member.values(features) for member in self.members])
        r_MNG = self.logits(features).T.unsqueeze(2) + values_MNC[..., 1:] @ groups.weights_GT.T
        return r_MNG.mean(0) - self.uncertainty_penalty * r_MNG.std(0)

    def standardised(self, base: FeatureGroups) -> "RewardModel":
        """Returns the model with a reward of mean 0 and std 1 on replies of the base."""
        model = replace(self, midpoint=min(0.0, float(self.penalised(base).quantile(0.9))))
        if self.groups is not None:
            midpoint_G = self._of_groups(base, self.groups).quantile(0.9, 0).clamp_max(0)
            model = replace(model, groups=replace(self.groups, midpoint_G=midpoint_G))
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
    counts = [component_count(number, votes.people_weight) for number in range(settings.members)]
    few = history.projections if history else fit_projections(base, min(counts), _voted(features, votes))
    first = project(few, features)
    weights_UT = votes.tastes_UT
    if weights_UT is None:
        largest = {name: group_NK[:, -TASTE_COMPONENTS:] for name, group_NK in first.items()}
        weights_UT = fit_weights(concatenate(largest, TASTE_FEATURES), votes)
    directions = weights_UT.shape[1]
    rows = RaterRows.of(votes) if directions else None
    likelihood = Likelihood(rows.votes if rows else votes)
    if history is not None:
        views = dict.fromkeys(counts, (few, first))
    else:
        inputs_NK = concatenate(first, TASTE_FEATURES).double()
        inputs_NK = inputs_NK if rows is None else rows.inputs(inputs_NK, weights_UT)
        selection = _selection(inputs_NK, likelihood, votes, weights_UT)
        views = _views(features, votes, base, counts, selection)
    members = []
    for number, bootstrap_V in enumerate(bootstrap(settings, votes, generator)):
        projections, groups = views[counts[number]]
        names = member_groups(number, groups)
        older = history.members[number] if history is not None else None
        features_NK = concatenate(groups, names).double()
        if rows is not None:
            width = features_NK.shape[1]
            older = older.widened(width, directions * width) if older is not None else None
            features_NK = rows.inputs(features_NK, weights_UT)
        posterior = Posterior(features_NK, likelihood, votes.raters, bootstrap_V, older)
        members.append(_fit_member(projections, names, posterior, directions))
    model = RewardModel(members, settings.uncertainty_penalty)
    if rows is not None:
        values_RC = model.values(features)
        people = posterior_weights(rows, values_RC, members[0].nuisance, weights_UT)
        least = settings.groups == "least_satisfied"
        model = replace(model, people=people, groups=Groups.of(people) if least else None)
    return model.standardised(base.groups)


def member_groups(member: int, there_are: Collection[str]) -> tuple[str, ...]:
    """Returns the feature groups that a member uses, of those that there are."""
    names = MEMBER_FEATURES[member % len(MEMBER_FEATURES)]
    return (*names, AUXILIARY) if AUXILIARY in there_are else names


def parameter_count(projections: Projections, member: int) -> int:
    """Returns the number of a member's free parameters that belong to no rater."""
    names = member_groups(member, projections)
    return sum(projections[name].basis_DK.shape[1] for name in names) + 1 + SHARED_SIZE


def _selection(
    inputs_NK: Tensor, likelihood: Likelihood, votes: Votes, weights_UT: Tensor
) -> VariableSelection:
    """Returns the selection of the tokens that matter, with the raters' reliabilities from a first fit, so
    that the votes of hostile ones say nothing about tokens."""
    everything_V, width = torch.ones(votes.count, dtype=torch.float64), inputs_NK.shape[1]
    mode = Posterior(inputs_NK, likelihood, votes.raters, everything_V, None).mode(None, FIRST_ITERATIONS)
    nuisance = NuisanceParameters.unpack(mode[width + 1 :], votes.raters)
    return VariableSelection.of(votes, nuisance.reliability_U, weights_UT)


def _voted(
    features: FeatureGroups, votes: Votes, selection: VariableSelection | None = None
) -> VotedFeatures:
    return VotedFeatures(features, votes.compared(len(next(iter(features.values())))), selection)


def _views(
    features: FeatureGroups,
    votes: Votes,
    base: BaseFeatures,
    counts: Sequence[int],
    selection: VariableSelection,
) -> dict[int, tuple[Projections, FeatureGroups]]:
    """Returns for each number of components the projections and the projected features of the replies."""
    widest = fit_projections(base, max(counts), _voted(features, votes, selection))
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


def bootstrap(settings: RewardSettings, votes: Votes, generator: torch.Generator) -> Iterator[Tensor]:
    """Yields the (V,) bootstrap weights of each member."""
    for _ in range(settings.members):
        draws_SV = torch.empty(BOOTSTRAP_SHAPE, votes.count, dtype=torch.float64)
        draws_SV.exponential_(generator=generator)
        yield draws_SV.mean(0)


def _fit_member(
    projections: Projections, names: tuple[str, ...], posterior: Posterior, directions: int = 0
) -> EnsembleMember:
    total = posterior.features_NK.shape[1]
    width = total // (1 + directions)
    mode = posterior.mode()
    coefficients_D = (PRIOR_STD * mode[:total]).float()
    covariance_DD = (PRIOR_STD**2 * posterior.covariance_KK(mode)).float()
    nuisance = NuisanceParameters.unpack(mode[total + 1 :], posterior.raters)
    scale_D = torch.full((total,), DIRECTION_SCALE)
    scale_D[:width] = 1.0
    differing = Directions(
        (scale_D * coefficients_D)[width:].view(directions, width), covariance_DD[:width] * scale_D
    )
    return EnsembleMember(
        projections, names, coefficients_D[:width], covariance_DD[:width, :width], float(mode[total]),
        nuisance, differing if directions else None,
    )  # fmt: skip


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
    rater_V = torch.tensor(votes.rater_of_vote)
    by_vote, by_rater = [], []
    for inputs_NK, shift_VK in coefficient_shifts(model, features, votes):
        shift_UK = torch.zeros(votes.raters, shift_VK.shape[1]).index_add_(0, rater_V, shift_VK)
        moment_KK = inputs_NK.T @ inputs_NK / len(inputs_NK)
        by_vote.append(((shift_VK @ moment_KK) * shift_VK).sum(1).clamp_min(0).sqrt())
        by_rater.append(((shift_UK @ moment_KK) * shift_UK).sum(1).clamp_min(0).sqrt())
    return Influence(
        torch.stack(by_vote).mean(0),
        torch.stack(by_rater).mean(0),
        model.reliability_U,
        torch.stack([member.nuisance.leniency_U for member in model.members]).mean(0),
    )


def coefficient_shifts(
    model: RewardModel, features: FeatureGroups, votes: Votes
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields for each member its (N, K) inputs, and the (V, K) change of its coefficients that each vote
    makes, to first order."""
    rows = RaterRows.of(votes) if model.people is not None else None
    likelihood = Likelihood(rows.votes if rows else votes)
    for member in model.members:
        inputs_NK = given_ND = member.inputs(features)
        coefficients_D, covariance_KD = member.coefficients_K, member.covariance_KK
        if rows is not None and model.people is not None and member.directions is not None:
            given_ND = rows.inputs(inputs_NK, model.people.mean_UT.float())
            given_ND[:, inputs_NK.shape[1] :] /= DIRECTION_SCALE
            coefficients_D = torch.cat([coefficients_D, member.directions.coefficients_TK.flatten()])
            covariance_KD = member.directions.covariance_KD
        r_N = (given_ND @ coefficients_D + member.bias).double()
        vote, reply, gradient = likelihood.gradients(r_N, member.nuisance)
        gradients_VD = torch.zeros(votes.count, given_ND.shape[1]).index_add_(
            0, vote, gradient.float().unsqueeze(1) * given_ND[reply]
        )
        yield inputs_NK, gradients_VD @ covariance_KD.T


def pairwise_accuracy(reward_N: Tensor, votes: Votes) -> float | None:
    """Returns the share of (thumbed-up, thumbed-down) pairs of replies that the reward orders correctly, ties
    counting half; None without such a pair."""
    up = [reply for _, _, reply, liked in votes.thumbs if liked]
    down = [reply for _, _, reply, liked in votes.thumbs if not liked]
    if not up or not down:
        return None
    gaps = reward_N[up].unsqueeze(1) - reward_N[down].unsqueeze(0)
    return float((gaps > 0).float().mean() + 0.5 * (gaps == 0).float().mean())
