"""Style drift is the change of a policy's replies that its reward does not explain, such as their length.

The KL penalty hardly limits it: a style of half of the base's replies can fall to a quarter of them for 0.14
nats a reply. So it has a penalty of its own. A reply's residual is its projected features (`projection`) less
their linear regression on the reward, fitted to the base's replies. A policy that only gains reward has
residuals of mean zero. The drift is the KL of two Gaussians whose means differ by the policy's mean residual
Δ: ½·ΔᵀC⁻¹Δ, with C the covariance of the base's residuals. A step of few replies sees mostly noise of Δ,
K/N nats in K directions, which would drown the reward: it is charged for as much less.
"""

import torch
from torch import Tensor

from trainer.reward.features import FeatureGroups
from trainer.reward.projection import Projections, member_features

RIDGE = 0.02
"""Share of the total variance that is added to the variance of each direction (ridge regularisation)."""

EVIDENCE = 128
"""Replies of a step from which its drift is charged in full; of fewer, in proportion."""

MOMENTUM = 0.3
"""Weight of the earlier steps' mean residual in the running mean; one step has few replies."""


class StyleDrift:
    """Measures the drift of a policy's replies from the base's, given the base's features and rewards."""

    def __init__(self, projections: Projections, features: FeatureGroups, rewards_N: Tensor) -> None:
        self._projections = projections
        projected_NK = self._project(features)
        self._mean_features_K, self._mean_reward = projected_NK.mean(0), rewards_N.mean()
        centred_N = rewards_N - self._mean_reward
        covariance_K = centred_N @ (projected_NK - self._mean_features_K)
        self._slope_K = covariance_K / centred_N.square().sum().clamp_min(1e-6)
        residuals_NK = self.residuals(features, rewards_N).double()
        covariance_KK = residuals_NK.T @ residuals_NK / len(residuals_NK)
        ridge = RIDGE * covariance_KK.trace().clamp_min(1e-6)
        self._precision_KK = torch.linalg.inv(covariance_KK + ridge * torch.eye(len(covariance_KK))).float()
        self._running_mean_K: Tensor | None = None
        self._evidence = 1.0

    def penalty(self, features: FeatureGroups, rewards_N: Tensor) -> Tensor:
        """Returns the (N,) nats by which each reply of a step adds to the drift (negative where it reduces
        it), and updates the running mean. Their mean is twice the drift, where there are EVIDENCE replies."""
        self._evidence = min(1.0, len(rewards_N) / EVIDENCE)
        residuals_NK = self.residuals(features, rewards_N)
        mean_K = residuals_NK.mean(0)
        if self._running_mean_K is not None:
            mean_K = torch.lerp(mean_K, self._running_mean_K, MOMENTUM)
        self._running_mean_K = mean_K
        return self.charge(residuals_NK)

    def charge(self, residuals_NK: Tensor) -> Tensor:
        """Returns the (N,) nats by which replies with these residuals would add to the drift of the last
        step's."""
        if self._running_mean_K is None:
            return torch.zeros(len(residuals_NK))
        return self._evidence * torch.mv(residuals_NK, torch.mv(self._precision_KK, self._running_mean_K))

    def _project(self, features: FeatureGroups) -> Tensor:
        return member_features(self._projections, tuple(self._projections), features)

    def residuals(self, features: FeatureGroups, rewards_N: Tensor) -> Tensor:
        """Returns the (N, K) projected features of replies, less what their rewards explain."""
        expected_NK = self._mean_features_K + (rewards_N - self._mean_reward).unsqueeze(1) * self._slope_K
        return self._project(features) - expected_NK
