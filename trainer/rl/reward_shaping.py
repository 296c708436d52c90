"""Reward shaping: the reward model's reward, less penalties for style drift, for a missing end token, and
for what candidates were blocked for.

The KL to the base is charged token by token in the policy gradient (`advantages.kl_to_go`), not here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from schemas.settings import RLSettings
from trainer.model.rollouts import Rollout
from trainer.reward.features import FeatureGroups
from trainer.reward.lora_heads import LoraHeads
from trainer.reward.scoring import Scored, kl_to_base
from trainer.rl.style_drift import StyleDrift


@dataclass(frozen=True, slots=True)
class Rewards:
    """Rewards of a step's B replies: by the reward model, the style drift and the KL to the base (nats a
    reply), and the shaped reward that the policy is trained on."""

    model_B: Tensor
    style_drift_B: Tensor
    kl_B: Tensor
    shaped_B: Tensor


@dataclass(frozen=True, slots=True)
class ShapedReward:
    """A reward function of rollouts. `model` maps features of N replies to rewards (N,); without
    `style_drift`, no drift is charged. A missing end token is charged as far as it is more frequent than
    among the base's replies, of which a share `base_no_eos` has none. `penalty` returns what else replies are
    charged for, (B,). `heads` are those whose logits `model` needs among the features."""

    model: Callable[[FeatureGroups], Tensor]
    rl: RLSettings
    style_drift: StyleDrift | None = None
    base_no_eos: float = 0.0
    penalty: Callable[[Sequence[Rollout]], Tensor] | None = None
    heads: LoraHeads | None = None

    def residuals(self, features: FeatureGroups, rewards_N: Tensor) -> Tensor:
        """Returns the (N, K) residuals of replies for `drifted`."""
        if self.style_drift is None:
            return torch.zeros(len(rewards_N), 0)
        return self.style_drift.residuals(features, rewards_N)

    def drifted(self, rewards_N: Tensor, residuals_NK: Tensor) -> Tensor:
        """Returns the (N,) rewards of replies of another policy, shaped by the drift of the last step's."""
        if self.style_drift is None:
            return rewards_N
        return rewards_N - self.rl.style_drift_coef * self.style_drift.charge(residuals_NK)

    def __call__(self, rollouts: Sequence[Rollout], scored: Scored) -> Rewards:
        """Raises FloatingPointError when a reward or a KL is not finite."""
        kl_B, model_B = kl_to_base(rollouts, scored), self.model(scored.features)
        if not bool(model_B.isfinite().all() and kl_B.isfinite().all()):
            raise FloatingPointError("a reward or a KL is not finite")
        drift_B = torch.zeros_like(model_B)
        if self.style_drift is not None:
            drift_B = self.style_drift.penalty(scored.features, model_B)
        no_eos_B = torch.tensor([not rollout.ended for rollout in rollouts])
        rate = float(no_eos_B.float().mean())
        excess = max(0.0, 1 - self.base_no_eos / rate) if rate else 0.0
        penalty_B = self.rl.no_eos_penalty * excess * no_eos_B
        if self.penalty is not None:
            penalty_B = penalty_B + self.penalty(rollouts)
        shaped_B = model_B - self.rl.style_drift_coef * drift_B - penalty_B
        return Rewards(model_B, drift_B, kl_B, shaped_B)
