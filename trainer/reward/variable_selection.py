"""Variable selection finds which of many features matter to people, by a spike-and-slab prior.

A feature has no effect on the reward (the spike), or one with a normal prior (the slab; Mitchell and
Beauchamp 1988). The features are judged one at a time, so that hundreds of votes suffice for thousands of
features: the score and the information of the likelihood at equal rewards give the Bayes factor
(Wakefield 2009). Where people's tastes differ (`tastes`), a feature matters, too, if it has an effect on a
direction in which they do.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainer.reward.likelihood import Likelihood, NuisanceParameters, Votes
from trainer.reward.tastes import RaterRows

PRIOR_PROBABILITY = 0.01
"""Probability that a feature has an effect, before any vote."""

SLAB_STD = 2.0
"""Standard deviation of an effect, in logits by a standard deviation of the feature."""

MIN_INFORMATION = 1e-9
"""Least information about a feature, in 1 / logits²: of one that no vote compares."""


@dataclass(frozen=True, slots=True)
class VariableSelection:
    """The first two derivatives of the votes' log-likelihood in the rewards of N rows, at equal rewards:
    `score_N` and, negative, `information_NN`. Each row is of a reply and, where tastes differ, of a rater,
    whose weights on the T directions are in `weights_NT`."""

    reply_N: Tensor
    score_N: Tensor
    information_NN: Tensor
    weights_NT: Tensor

    @classmethod
    def of(cls, votes: Votes, reliability_U: Tensor, weights_UT: Tensor) -> "VariableSelection":
        """Returns the selection by votes, given the raters' reliabilities and weights on directions. Nobody
        counts for more than a rater of whom nothing is known."""
        rows = RaterRows.of(votes)
        likelihood = Likelihood(rows.votes)
        nuisance = replace(
            NuisanceParameters.unpack(torch.zeros(NuisanceParameters.size(votes.raters)), votes.raters),
            reliability_U=reliability_U.clamp_max(1),
        )
        constant_N = torch.zeros(len(rows.reply_N), dtype=torch.float64)
        _, row, gradient = likelihood.gradients(constant_N, nuisance)
        score_N = torch.zeros_like(constant_N).index_add_(0, row, gradient)
        weights_V = torch.ones(votes.count, dtype=torch.float64)
        information_NN = -likelihood.hessian(constant_N, nuisance, weights_V)
        return cls(rows.reply_N, score_N, information_NN, weights_UT[rows.rater_N])

    def probability(self, features_RD: Tensor) -> Tensor:
        """Returns the (D,) posterior probability that each of the replies' features has an effect."""
        std_D = features_RD.std(0).clamp_min(1e-6)
        rows_ND = (features_RD / std_D)[self.reply_N].double()
        without_D = 1 - self._effect(rows_ND)
        for weight_N in self.weights_NT.T:
            without_D = without_D * (1 - self._effect(rows_ND * weight_N.unsqueeze(1)))
        return (1 - without_D).float()

    def _effect(self, rows_ND: Tensor) -> Tensor:
        """Returns the (D,) posterior probability of an effect of each column."""
        # What all rows have in common is the constant, which is free: each column is taken less its mean.
        weight_N = torch.mv(self.information_NN, torch.ones_like(self.score_N))
        total = weight_N.sum()
        if total > MIN_INFORMATION:
            rows_ND = rows_ND - weight_N @ rows_ND / total
        information_D = (rows_ND * (self.information_NN @ rows_ND)).sum(0).clamp_min(MIN_INFORMATION)
        ratio_D = SLAB_STD**2 * information_D
        chi_square_D = (self.score_N @ rows_ND).square() / information_D
        log_bayes_factor_D = (chi_square_D * ratio_D / (1 + ratio_D) - ratio_D.log1p()) / 2
        prior = torch.tensor(PRIOR_PROBABILITY, dtype=torch.float64).logit()
        return (log_bayes_factor_D + prior).sigmoid()
