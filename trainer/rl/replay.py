"""Experience replay adds an off-policy policy gradient on the base's samples, which are sampled anyway.

A policy that starts from the base stays near it, within `rl.kl_per_reply`, so the base's replies tell as much
of the reward's gradient as the policy's own, for the cost of the training pass alone. Each token's importance
weight is truncated (`losses.importance_weights`), as in off-policy actor-critic methods (Espeholt et al.
2018).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trainer.model.backbone import Backbone
from trainer.model.rollouts import Rollout
from trainer.reward.scoring import Scored, score
from trainer.rl.batch import Batch
from trainer.rl.objectives import EpochSampler, Objective
from trainer.rl.reward_shaping import ShapedReward


@dataclass(frozen=True, slots=True)
class ReplayBuffer:
    """Rollouts of the base, as many to each of the prompts in turn, with their scores. Their rewards are
    shaped by the style drift of the policy at each step."""

    prompts: Sequence[list[int]]
    rollouts: Sequence[Rollout]
    scored: Scored
    rewards_N: torch.Tensor
    residuals_NK: torch.Tensor
    reward: ShapedReward

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        prompts: Sequence[list[int]],
        rollouts: Sequence[Rollout],
        reward: ShapedReward,
        temperature: float,
    ) -> "ReplayBuffer":
        """Scores rollouts of the base to prompts, in the order of the prompts."""
        asked = [prompts[rollout.prompt] for rollout in rollouts]
        replies = [rollout.token_ids for rollout in rollouts]
        scored = score(
            backbone, asked, replies, temperature=temperature, reward=reward.model, heads=reward.heads
        )
        rewards_N = reward.model(scored.features)
        residuals_NK = reward.residuals(scored.features, rewards_N)
        return cls(prompts, rollouts, scored, rewards_N, residuals_NK, reward)

    def batch(self, chosen: Sequence[int], like: Batch) -> Batch:
        """Returns the samples to the chosen prompts as a batch, with the coefficients of another."""
        count = len(self.rollouts) // len(self.prompts)
        rows = [count * prompt + sample for prompt in chosen for sample in range(count)]
        return Batch(
            [self.prompts[prompt] for prompt in chosen for _ in range(count)],
            [self.rollouts[row] for row in rows],
            self.scored.of(rows),
            self.reward.drifted(self.rewards_N[rows], self.residuals_NK[rows]).view(len(chosen), count),
            like.kl_coef,
            like.confident_kl_coef,
        )


class WithReplay:
    """An objective that is also applied to the replay buffer, `batch_size` prompts a step."""

    def __init__(
        self, objective: Objective, buffer: ReplayBuffer, batch_size: int, generator: torch.Generator
    ) -> None:
        self._objective = objective
        self._buffer = buffer
        count = len(buffer.prompts)
        self._draw = EpochSampler(count, min(batch_size, count), generator)

    def backward(self, backbone: Backbone, batch: Batch) -> None:
        self._objective.backward(backbone, batch)
        self._objective.backward(backbone, self._buffer.batch(self._draw(), batch))
