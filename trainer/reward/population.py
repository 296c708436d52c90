"""A population is the Gaussian that people's weights on the features of a reply are drawn from.

Rater u values a reply with features f at f·θ_u, and their leniency is one weight more, on a constant. With
θ_u ~ N(μ, Σ), a mixed-effects model (Laird and Ware 1982), μ and Σ are found by expectation–maximisation. A
round takes one Newton step to each rater's most probable θ_u, and then sets μ and Σ to what the raters'
posteriors (Laplace's approximation) say. So a rater of few votes is like everybody, and what several raters
share stands out in Σ: noise, which each has in other directions, shrinks from round to round.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.reward.likelihood import LENIENCY_STD, Likelihood, NuisanceParameters
from trainer.reward.posterior import PRIOR_STD

ROUNDS = 15
"""Rounds of expectation–maximisation. Few leave more of the prior in Σ, which is more cautious."""

MEAN_STD, START_STD = 1.0, 0.3
"""Standard deviations of the prior on μ, and of Σ at the start, relative to a member's prior."""

OPPOSITION = 0.7
"""Correlation with the mean reward, over the voted replies, from which a direction may be the mean turned
round."""

MAX_HOSTILE = 0.4
"""Share of people who value replies the other way round than the mean does, up to which such a direction is
hostility and no taste."""

_LARGEST_STEP = 3.0  # of a weight in a Newton step, in standard deviations of the population
_FLOOR = 1e-6  # variance that is left in each direction


@dataclass(frozen=True, slots=True)
class Population:
    """The (K,) mean and the (K, K) covariance of people's coefficients, and the (U, K) most probable
    coefficients and (U,) leniency of each rater."""

    mean_K: Tensor
    covariance_KK: Tensor
    coefficients_UK: Tensor
    leniency_U: Tensor

    def directions(self, features_RK: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """Returns the (R, T) values of replies along the directions in which people differ, at most `most`
        with the largest variance over people and replies first, and the raters' (U, T) places on them.

        A direction is left out that is the mean turned round where most people agree with the mean: whoever
        is on its far side votes against everybody on everything, which is a matter of their reliability."""
        centred_RK = PRIOR_STD * (features_RK - features_RK.mean(0))
        eye_KK = torch.eye(centred_RK.shape[1], dtype=torch.float64)
        root_KK = torch.linalg.cholesky(centred_RK.T @ centred_RK / len(centred_RK) + _FLOOR * eye_KK)
        _, vectors_KK = torch.linalg.eigh(root_KK.T @ self.covariance_KK @ root_KK)
        basis_KK = torch.linalg.solve_triangular(root_KK.T, vectors_KK, upper=True)
        mean_K = vectors_KK.T @ root_KK.T @ self.mean_K
        apart_UK = self.coefficients_UK - self.mean_K
        agreement_U = (self.coefficients_UK @ root_KK @ root_KK.T @ self.mean_K)[apart_UK.any(1)]
        hostile = float((agreement_U < 0).double().mean()) < MAX_HOSTILE
        opposed_K = (mean_K.abs() > OPPOSITION * mean_K.norm()) & hostile
        kept = (~opposed_K).nonzero().squeeze(1).flip(0)[:most]
        return PRIOR_STD * features_RK @ basis_KK[:, kept], apart_UK @ root_KK @ vectors_KK[:, kept]


def fit(
    features_NK: Tensor,
    rater_N: Tensor,
    raters: int,
    people_U: Tensor,
    likelihood: Likelihood,
    mask_V: Tensor,
) -> Population:
    """Returns the population of the raters `people_U`, from N rows that are each of a reply and a rater.
    Other raters are like everybody. `mask_V` selects votes by weight."""
    inputs_NK = torch.cat([PRIOR_STD * features_NK, torch.ones_like(features_NK[:, :1])], 1)
    eye_KK = torch.eye(inputs_NK.shape[1], dtype=torch.float64)
    mean_K, root_KK = 0 * eye_KK[0], START_STD * eye_KK
    root_KK[-1, -1] = LENIENCY_STD
    theta_UK = mean_K.repeat(raters, 1)
    rows = [(rater, (rater_N == rater).nonzero().squeeze(1)) for rater in people_U.tolist()]
    for _ in range(ROUNDS):
        gradient_N, curvature_NK = _slopes(inputs_NK, rater_N, theta_UK, likelihood, mask_V)
        spread_KK = torch.zeros_like(eye_KK)
        for rater, own_B in rows:
            white_BK = inputs_NK[own_B] @ root_KK
            pull_K, precision_KK = white_BK.T @ gradient_N[own_B], white_BK.T @ curvature_NK[own_B] @ root_KK
            apart_K1 = (theta_UK[rater] - mean_K).unsqueeze(1)
            now_K = torch.linalg.solve_triangular(root_KK, apart_K1, upper=False).squeeze(1)
            step_K, covariance_KK = _newton_step(now_K, pull_K, precision_KK)
            theta_UK[rater] += root_KK @ step_K
            spread_KK += root_KK @ covariance_KK @ root_KK.T / len(people_U)
        of_mean_KK = root_KK @ root_KK.T / len(people_U) + MEAN_STD**2 * eye_KK
        mean_K = MEAN_STD**2 * torch.linalg.solve(of_mean_KK, theta_UK[people_U].mean(0))
        apart_UK = theta_UK[people_U] - mean_K
        covariance_KK = apart_UK.T @ apart_UK / len(people_U) + spread_KK
        root_KK = torch.linalg.cholesky(covariance_KK + _FLOOR * eye_KK)
    others = torch.ones(raters, dtype=torch.bool).index_fill_(0, people_U, False)
    theta_UK[others] = mean_K
    return Population(mean_K[:-1], covariance_KK[:-1, :-1], theta_UK[:, :-1], theta_UK[:, -1])


def _newton_step(now_K: Tensor, pull_K: Tensor, precision_KK: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the step to a rater's most probable weights, and their covariance, where the prior is N(0, 1).
    Votes explained as lapses have negative curvature; there the prior alone counts."""
    values_K, vectors_KK = torch.linalg.eigh((precision_KK + precision_KK.T) / 2)
    covariance_KK = (vectors_KK / (1 + values_K.clamp_min(0))) @ vectors_KK.T
    step_K = covariance_KK @ (pull_K - now_K)
    return step_K * min(1.0, _LARGEST_STEP / max(float(step_K.abs().max()), 1e-9)), covariance_KK


def _slopes(
    inputs_NK: Tensor, rater_N: Tensor, theta_UK: Tensor, likelihood: Likelihood, mask_V: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns the (N,) gradient of the log-likelihood in r, and the (N, K) product of its negative Hessian
    with the inputs, as if all raters were reliable."""
    raters = len(theta_UK)
    nuisance = NuisanceParameters.unpack(theta_UK.new_zeros(NuisanceParameters.size(raters)), raters)
    r_N = (inputs_NK * theta_UK[rater_N]).sum(1)
    vote, row, gradient = likelihood.gradients(r_N, nuisance)
    gradient_N = torch.zeros_like(r_N).index_add_(0, row, gradient * mask_V[vote])
    return gradient_N, -(likelihood.hessian(r_N, nuisance, mask_V) @ inputs_NK)
