"""What a policy changes although no vote asks for it: its replies get shorter, or warmer, or less sure.

The KL penalty hardly feels that: when a style that half of the base's replies have goes to a quarter of them,
it is 0.14 nats of a whole reply, and almost any other gain pays for it. So it is measured on its own. A
reply's surprise is what it looks like (`lens`) less what the base's replies of as much reward look like on
average; a policy that is the base, but for liking what people like, has none on average. What it has is
charged as the KL of two Gaussians that far apart, ½·ΔᵀC⁻¹Δ with C the covariance over the base's replies.
"""

import torch
from torch import Tensor

from trainer.reward.features import Views
from trainer.reward.projection import Lenses, look

RIDGE = 0.02
"""Of all variance, added to that of each direction: how little there is of the least, a few replies of the
base cannot tell."""

MEMORY = 0.3
"""Share of the drift of the steps before in a step's estimate: its own replies are few."""


class Drift:
    """Of a policy's replies from the base's, of which `views` and `rewards_N` are given."""

    def __init__(self, through: Lenses, views: Views, rewards_N: Tensor) -> None:
        self._through = through
        looks_NK = self._look(views)
        self._centre_K, self._reward = looks_NK.mean(0), rewards_N.mean()
        above_N = rewards_N - self._reward
        self._slope_K = above_N @ (looks_NK - self._centre_K) / above_N.square().sum().clamp_min(1e-6)
        surprises_NK = self._surprises(views, rewards_N).double()
        covariance_KK = surprises_NK.T @ surprises_NK / len(surprises_NK)
        ridge = RIDGE * covariance_KK.trace().clamp_min(1e-6)
        self._precision_KK = torch.linalg.inv(covariance_KK + ridge * torch.eye(len(covariance_KK))).float()
        self._mean_K: Tensor | None = None

    def charge(self, views: Views, rewards_N: Tensor) -> Tensor:
        """(N,) nats by which each of a step's replies adds to the drift, less where it takes from it; their
        mean is twice the drift."""
        surprises_NK = self._surprises(views, rewards_N)
        mean_K = surprises_NK.mean(0)
        self._mean_K = mean_K if self._mean_K is None else torch.lerp(mean_K, self._mean_K, MEMORY)
        return torch.mv(surprises_NK, torch.mv(self._precision_KK, self._mean_K))

    def _look(self, views: Views) -> Tensor:
        return look(self._through, tuple(self._through), views)

    def _surprises(self, views: Views, rewards_N: Tensor) -> Tensor:
        expected_NK = self._centre_K + (rewards_N - self._reward).unsqueeze(1) * self._slope_K
        return self._look(views) - expected_NK
