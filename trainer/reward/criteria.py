"""A criterion is a head of the reward model: how well a reply meets it, by what people say about their votes.

With r_c(y) = w·φ(y), and whether a vote of rater u praises or blames the reply for the criterion:

    P(praise) = σ(a_u·r_c + β₊ + b_u₊)        P(blame) = σ(−a_u·r_c + β₋ + b_u₋)

Most votes say nothing about a criterion, which is no proof: β and b_u, an item-response model's difficulty
and the rater's inclination, have what a rater leaves unsaid (with positive and unlabelled data a logistic
regression still ranks right: Elkan and Noto 2008). a_u ≥ 0 is the rater's reliability, as in the likelihood
of the votes: it goes to 0 for somebody who blames what all others praise. No person counts for more than
MAX_SHARE of all votes. φ are the projected features of the reward model, and the reward itself.

Whether replies A meet the criterion more than replies B, where a vote says so, is Bradley and Terry's model
(1952) with the means r_c(A) and r_c(B), which needs neither β nor b_u: it says nothing of either alone.

    P(A more than B) = σ(a_u·(r_c(A) − r_c(B)))

The share of replies that meet the criterion is the mean of σ(s·(r_c − m)), with m halfway between the mean of
the replies that are blamed, or that others meet it more than, and that of the rest, and s such that these
means are at ∓2 logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.reward.criterion_posterior import CriterionPosterior
from trainer.reward.ensemble import RewardModel
from trainer.reward.features import FeatureGroups

MIN_MENTIONS = 8
"""Mentions of a criterion below which it has no head."""

MAX_SHARE = 0.1
"""Most of the weight of all votes that one person has."""

SPREAD = 4.0
"""Logits of the sigmoid from the mean of the blamed replies to that of the others."""


MIN_SPREAD = 1e-3
"""Least difference between these means, in logits of r_c, of a criterion that tells replies apart."""


@dataclass(frozen=True, slots=True)
class MentionRows:
    """Votes as rows, one for each: the replies that it is about, the rater, whether it praises or blames
    these for the criterion, and its weight. Where it compares, `others` are those that the replies meet the
    criterion more than (praise); else there are none."""

    replies: list[list[int]]
    raters: list[int]
    praises: list[bool]
    blames: list[bool]
    weights: list[float]
    others: list[list[int]]


@dataclass(frozen=True, slots=True)
class CriterionHead:
    """A fitted criterion. `praises`, `blames` and `people` count the mentions that it comes from; a
    comparison is a praise."""

    name: str
    model: RewardModel
    coefficients_K: Tensor
    covariance_KK: Tensor
    midpoint: float
    steepness: float
    praises: int
    blames: int
    people: int

    def inputs(self, features: FeatureGroups) -> Tensor:
        """Returns the (N, K) inputs of replies."""
        return criterion_inputs(self.model, features, self.model.reward(features))

    def shares(self, inputs_NK: Tensor) -> Tensor:
        """Returns how far each reply meets the criterion, (N,) between 0 and 1."""
        return (self.steepness * (inputs_NK @ self.coefficients_K - self.midpoint)).sigmoid()

    def slopes(self, inputs_NK: Tensor) -> Tensor:
        """Returns the (N, K) derivatives of `shares` in the coefficients."""
        share_N = self.shares(inputs_NK)
        return (self.steepness * share_N * (1 - share_N)).unsqueeze(1) * inputs_NK

    def variance(self, slope_K: Tensor) -> float:
        """Returns the posterior variance of a mean of shares with this derivative."""
        variance: float = (slope_K @ self.covariance_KK @ slope_K).item()
        return max(0.0, variance)


def criterion_inputs(model: RewardModel, features: FeatureGroups, reward_N: Tensor) -> Tensor:
    """Returns the (N, K) inputs of all criteria: the features of the reward model's member with the most, and
    the reward."""
    widest = max(
        model.members, key=lambda each: sum(each.projections[name].basis_DK.shape[1] for name in each.names)
    )
    return torch.cat([widest.inputs(features), reward_N.unsqueeze(1)], 1)


def fit_criterion(
    name: str, model: RewardModel, features: FeatureGroups, rows: MentionRows
) -> CriterionHead | None:
    """Fits a criterion to votes on the replies of `features`; None with fewer than MIN_MENTIONS mentions, or
    where the mentions do not tell replies apart."""
    praise_M, blame_M = (torch.tensor(each, dtype=torch.bool) for each in (rows.praises, rows.blames))
    said_M, rater_M = praise_M | blame_M, torch.tensor(rows.raters)
    if int(said_M.sum()) < MIN_MENTIONS:
        return None
    inputs_NK = criterion_inputs(model, features, model.reward(features)).double()
    reply_MK, other_MK = _means(inputs_NK, rows.replies), _means(inputs_NK, rows.others)
    compared_M = torch.tensor([bool(others) for others in rows.others])
    alone = [(sign, of & ~compared_M) for sign, of in ((1.0, praise_M), (-1.0, blame_M))]
    posterior = CriterionPosterior(
        reply_MK - other_MK,
        [(sign, of) for sign, of in alone if bool(of.any())],
        compared_M,
        rater_M,
        _bounded(torch.tensor(rows.weights, dtype=torch.float64), rater_M),
    )
    mode = posterior.mode()
    r_M, behind = (each @ posterior.coefficients(mode) for each in (reply_MK, other_MK[compared_M]))
    # Where all that is said compares, votes that do not compare tell nothing.
    telling_M = compared_M | bool(posterior.kinds)
    trusted_M = posterior.weight_M * posterior.reliability_M(mode) * telling_M
    missed_M = blame_M if bool(blame_M.any()) else ~praise_M
    met = _mean(r_M, trusted_M * ~missed_M)
    missed = _mean(torch.cat([r_M, behind]), torch.cat([trusted_M * missed_M, trusted_M[compared_M]]))
    if not met - missed > MIN_SPREAD:
        return None
    return CriterionHead(
        name, model, posterior.coefficients(mode).float(), posterior.covariance_KK(mode).float(),
        (met + missed) / 2, SPREAD / (met - missed), int(praise_M.sum()), int(blame_M.sum()),
        len(set(rater_M[said_M].tolist())),
    )  # fmt: skip


def _means(inputs_NK: Tensor, replies: Sequence[Sequence[int]]) -> Tensor:
    """Returns the (M, K) mean inputs of some replies for each vote; 0 where there are none."""
    counts_M = torch.tensor([len(each) for each in replies])
    vote_I = torch.arange(len(replies)).repeat_interleave(counts_M)
    reply_I = torch.tensor([reply for each in replies for reply in each], dtype=torch.long)
    sums_MK = inputs_NK.new_zeros(len(replies), inputs_NK.shape[1]).index_add_(0, vote_I, inputs_NK[reply_I])
    return sums_MK / counts_M.clamp_min(1).unsqueeze(1)


def _mean(values_M: Tensor, weight_M: Tensor) -> float:
    """Returns the weighted mean; not a number without weights."""
    return float((weight_M * values_M).sum() / weight_M.sum())


def _bounded(weight_M: Tensor, rater_M: Tensor) -> Tensor:
    """Returns the weights, with at most MAX_SHARE of their sum for each rater, where there are enough raters
    for that."""
    total_U = torch.zeros(int(rater_M.max()) + 1, dtype=weight_M.dtype).index_add_(0, rater_M, weight_M)
    if int((total_U > 0).sum()) < 1 / MAX_SHARE:
        return weight_M
    factor_U = (MAX_SHARE * total_U.sum() / total_U.clamp_min(1e-9)).clamp_max(1.0)
    return weight_M * factor_U[rater_M]
