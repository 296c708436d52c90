"""ScoredSamples are the current policy's samples with their scores, rewards and statistics."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trainer.data.hyperparameters import Hyperparameters
from trainer.model.backbone import Backbone
from trainer.model.rollouts import Rollout
from trainer.reward.scoring import Scored, score
from trainer.rl.batch import StepStats
from trainer.rl.reward_shaping import Rewards, ShapedReward
from trainer.rl.sampling import Samples


@dataclass(frozen=True, slots=True)
class ScoredSamples:
    """Rollouts, the prompt of each, their scores by the base and their rewards, and the step's statistics."""

    prompts: Sequence[list[int]]
    rollouts: list[Rollout]
    scored: Scored
    rewards: Rewards
    stats: StepStats

    @property
    def replies(self) -> list[list[int]]:
        return [rollout.token_ids for rollout in self.rollouts]

    @classmethod
    def draw(
        cls, backbone: Backbone, sample: Callable[[], Samples], reward: ShapedReward, rl: Hyperparameters
    ) -> "ScoredSamples":
        """Samples k replies to each prompt of a step, then scores them. Raises FloatingPointError when a
        reward or a KL is not finite."""
        prompts, rollouts = sample()
        replies = [rollout.token_ids for rollout in rollouts]
        scored = score(
            backbone, prompts, replies, temperature=rl.temperature, reward=reward.model, heads=reward.heads
        )
        rewards = reward(rollouts, scored)
        return cls(prompts, rollouts, scored, rewards, StepStats.of(rollouts, rewards))
