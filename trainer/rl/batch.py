"""A Batch holds the scored samples of an optimizer step; StepStats and OptimizeResult are its statistics."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from trainer.model.rollouts import Rollout, entropy
from trainer.reward.scoring import Scored, kl_to_base
from trainer.rl.reward_shaping import Rewards


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples with their scores, ordered by prompt: `prompts` has the prompt of each of the B replies.
    `kl_coef` is β of this step, `confident_kl_coef` the weight of the confident-token KL (`losses`)."""

    prompts: Sequence[list[int]]
    rollouts: Sequence[Rollout]
    scored: Scored
    rewards_PK: Tensor
    kl_coef: float
    confident_kl_coef: float

    def minibatches(self) -> list["Batch"]:
        """Returns batches with one reply to each prompt."""
        count = self.rewards_PK.shape[1]
        return [
            replace(
                self,
                prompts=self.prompts[number::count],
                rollouts=self.rollouts[number::count],
                scored=self.scored.of(range(number, len(self.prompts), count)),
                rewards_PK=self.rewards_PK[:, number : number + 1],
            )
            for number in range(count)
        ]

    @property
    def replies(self) -> list[list[int]]:
        return [rollout.token_ids for rollout in self.rollouts]

    @property
    def base_logprobs(self) -> list[list[float]]:
        return self.scored.base_logprobs

    @property
    def kl(self) -> float:
        """The KL to the base on the samples, nats a reply."""
        return float(kl_to_base(self.rollouts, self.scored).mean())


@dataclass(frozen=True, slots=True)
class StepStats:
    """Statistics of one step's samples, before the step: `reward` of the reward model, `kl` and `entropy` in
    nats per token, `kl_per_reply` and `style_drift` in nats, `mean_length` in tokens, `eos_rate` as a share
    of the replies. `kl_error` is the standard error of `kl_per_reply`."""

    reward: float
    kl: float
    kl_per_reply: float
    kl_error: float
    style_drift: float
    entropy: float
    mean_length: float
    eos_rate: float

    @classmethod
    def of(cls, rollouts: Sequence[Rollout], rewards: Rewards) -> "StepStats":
        """Computes the statistics of a step's rollouts and their rewards."""
        tokens = sum(len(rollout.token_ids) for rollout in rollouts)
        return cls(
            reward=round(float(rewards.model_B.mean()), 4),
            kl=round(float(rewards.kl_B.sum()) / tokens, 4),
            kl_per_reply=round(float(rewards.kl_B.mean()), 4),
            kl_error=round(float(rewards.kl_B.std(correction=0)) / max(1, len(rollouts) - 1) ** 0.5, 4),
            style_drift=round(float(rewards.style_drift_B.mean()) / 2, 4),
            entropy=round(entropy(rollouts), 4),
            mean_length=round(tokens / len(rollouts), 1),
            eos_rate=round(sum(rollout.ended for rollout in rollouts) / len(rollouts), 3),
        )


@dataclass(frozen=True, slots=True)
class OptimizeResult:
    """The accepted steps, all steps' samples, why steps were taken back, how often the guard halved the way,
    whether the adapter moved, the learning rate that the trust region found, and each step's KL to the policy
    before it (nats per reply)."""

    steps: list[StepStats]
    rollouts: list[list[Rollout]]
    stopped: str | None
    halvings: int
    moved: bool
    learning_rate: float
    step_kl: list[float]

    def as_json(self) -> dict[str, Any]:
        steps = [asdict(step) for step in self.steps]
        return {
            "steps": steps, "stopped": self.stopped, "halvings": self.halvings,
            "learning_rate": self.learning_rate, "step_kl": self.step_kl,
        }  # fmt: skip
