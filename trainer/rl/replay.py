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
from trainer.reward.ensemble import RewardModel
from trainer.reward.scoring import Scored, score
from trainer.rl.batch import Batch
from trainer.rl.objectives import EpochSampler, Objective


@dataclass(frozen=True, slots=True)
class ReplayBuffer:
    """Rollouts of the base, `samples_per_prompt` to each of the prompts in turn, with their scores and the
    reward model's rewards."""

    prompts: Sequence[list[int]]
    rollouts: Sequence[Rollout]
    scored: Scored
    rewards_PK: torch.Tensor

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        prompts: Sequence[list[int]],
        rollouts: Sequence[Rollout],
        model: RewardModel,
        temperature: float,
    ) -> "ReplayBuffer":
        """Scores rollouts of the base to prompts, in the order of the prompts."""
        asked = [prompts[rollout.prompt] for rollout in rollouts]
        replies = [rollout.token_ids for rollout in rollouts]
        scored = score(backbone, asked, replies, temperature=temperature, reward=model.reward)
        return cls(prompts, rollouts, scored, model.reward(scored.features).view(len(prompts), -1))

    def batch(self, chosen: Sequence[int], like: Batch) -> Batch:
        """Returns the samples to the chosen prompts as a batch, with the coefficients of another."""
        count = self.rewards_PK.shape[1]
        rows = [count * prompt + sample for prompt in chosen for sample in range(count)]
        return Batch(
            [self.prompts[prompt] for prompt in chosen for _ in range(count)],
            [self.rollouts[row] for row in rows],
            self.scored.of(rows),
            self.rewards_PK[list(chosen)],
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
