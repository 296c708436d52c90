"""This module builds the objective of a round whose steps have few samples: a regression of the last hidden
states on those of the best policy for a token critic."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import structlog
import torch
from torch import Tensor

from trainer.data.feature_cache import FeatureCache
from trainer.data.hyperparameters import Hyperparameters, Model, first_learning_rate
from trainer.data.split import RoundData
from trainer.model.backbone import MAX_LOGITS, Backbone
from trainer.model.batch import PaddedBatch
from trainer.model.rollouts import Rollout, pad_rows
from trainer.reward.ensemble import RewardModel
from trainer.reward.features import answer_length, judged_mask
from trainer.reward.scoring import micro_batches
from trainer.rl import losses
from trainer.rl.batch import Batch
from trainer.rl.objectives import CONFIDENT_PROBABILITY, align
from trainer.rl.reward_shaping import ShapedReward
from trainer.rl.token_critic import TokenCritic, fit_critic, has_few_samples

log = structlog.get_logger("trainer")

MAX_VOTED = 512
"""Voted replies, the newest, from which the values of tokens are found beside the base's samples."""

KL_SCALE = 1 / 8
"""Factor on β for the regression, whose KL is spent in one direction. Of that of sampled returns, most is
noise."""

MAX_MEASURED = 16
"""Replies of the base by which the KL of the best policy is found."""


@dataclass(frozen=True, slots=True)
class CriticRegression:
    """The regression on the best policy for the critic at `kl_coef` (β), with the KL on confident tokens
    beside it. It needs many small steps."""

    critic: TokenCritic
    kl_coef: float
    temperature: float = 1.0

    def backward(self, backbone: Backbone, batch: Batch) -> None:
        critic, prompts, replies = self.critic, batch.prompts, batch.replies
        top_ids_BT, _ = pad_rows(batch.scored.top_ids)
        base_top_BT, _ = pad_rows(batch.scored.top_logprobs)
        tokens = sum(map(len, replies))
        for rows in micro_batches(backbone, prompts, replies):
            padded = backbone.pad([prompts[row] for row in rows], [replies[row] for row in rows])
            mask_BR, judged_BR = padded.reply_mask_BR, judged_mask(padded, backbone.think_ids)
            top_ids_BR = align(padded, top_ids_BT[rows]).long()
            base_BRD = backbone.base_states(padded)
            top_BR, states_BRD = backbone.logprobs_and_states(padded, top_ids_BR)
            shift_BRD = (states_BRD - base_BRD) / self.temperature
            weight_BR = _weights(critic, padded, judged_BR)
            loss = losses.state_shift(
                shift_BRD, critic.direction_D, critic.variance, mask_BR, weight_BR, self.kl_coef
            )
            base_top_BR = align(padded, base_top_BT[rows])
            kl = losses.confident_token_kl(top_BR, base_top_BR, mask_BR, CONFIDENT_PROBABILITY)
            loss = loss + batch.confident_kl_coef * kl
            (loss * mask_BR.sum() / tokens).backward()  # type: ignore[no-untyped-call]


def _weights(critic: TokenCritic, padded: PaddedBatch, judged_BR: Tensor) -> Tensor:
    """Returns the (B, R) weights of the critic's value in each place: 1/length, less what it fell by."""
    place_BR = critic.places(padded.reply_tokens_BR, judged_BR)
    return place_BR / judged_BR.sum(1, keepdim=True).clamp_min(1)


def is_needed(rl: Hyperparameters, backbone: Backbone, mean_length: float) -> bool:
    """Whether the steps of a policy gradient have too few samples for replies of so many tokens, and a critic
    may take their place. It needs the output matrix apart from the rest, in a single process."""
    samples = rl.prompts_per_step * rl.samples_per_prompt
    able = backbone.group.size == 1 and backbone.chunks_logits
    return able and rl.algorithm in ("rloo", "grpo") and has_few_samples(samples, mean_length)


def token_critic(
    data: RoundData,
    cache: FeatureCache,
    model: RewardModel,
    reward: ShapedReward,
    base: Sequence[Rollout],
    base_rewards_N: Tensor,
) -> TokenCritic | None:
    """Returns the critic where it is needed (`is_needed`); None elsewhere, and where tokens explain nothing
    of the reward. `model` is the reward model in `reward`, and `base_rewards_N` are the rewards of the base's
    samples."""
    backbone, replies = data.backbone, [rollout.token_ids for rollout in base]
    if not is_needed(data.rl, backbone, fmean(map(len, replies))):
        return None
    rewards_N, prompts = base_rewards_N, [rollout.prompt for rollout in base]
    if reward.penalty is not None:
        rewards_N = rewards_N - reward.penalty(base)
    if reward.heads is None:
        keys = list(dict.fromkeys(key for each in data.training for key in each.reply_keys))[-MAX_VOTED:]
        replies += [data.corpus.replies[key].token_ids for key in keys]
        rewards_N = torch.cat([rewards_N, reward.model(cache.features(keys))])
        prompts += [-1 - row for row in range(len(keys))]
    replies = [reply[-answer_length(reply, backbone.think_ids) :] for reply in replies]
    output_VD = backbone.model.get_output_embeddings().weight
    values = model.token_values(fmean(map(len, replies)), len(output_VD))
    critic = fit_critic(output_VD, backbone.eos_ids, replies, rewards_N, torch.tensor(prompts), values)
    if critic is not None:
        log.info("token critic", **critic.as_json())
    return critic


def critic_kl_coef(
    critic: TokenCritic, backbone: Backbone, rl: Hyperparameters, prompts: Sequence[list[int]],
    base: Sequence[Rollout],
) -> float:  # fmt: skip
    """Returns β of a round's regression: KL_SCALE of that of sampled returns, or more, where the best policy
    would else be beyond the KL budget. It is the same in all steps, since a β that follows the KL of a step's
    few samples moves the target by their noise. `base` are the base's replies to `prompts`."""
    rows = base[:: -(-len(base) // MAX_MEASURED)]
    kl = best_policy_kl(critic, backbone, rl.temperature, [prompts[row.prompt] for row in rows], rows)
    return max(KL_SCALE * rl.kl_coef, math.sqrt(kl / rl.kl_per_reply))


@torch.no_grad()
def best_policy_kl(
    critic: TokenCritic, backbone: Backbone, temperature: float, prompts: Sequence[list[int]],
    rollouts: Sequence[Rollout],
) -> float:  # fmt: skip
    """Returns the KL to the base of the best policy at β = 1, nats a reply, to the second order: half of the
    variance of value/length over the next tokens, summed over a reply. It falls with β²."""
    head, replies, total = backbone.model.get_output_embeddings(), [row.token_ids for row in rollouts], 0.0
    values_V = head.weight.float() @ critic.direction_D
    for rows in micro_batches(backbone, prompts, replies):
        padded = backbone.pad([prompts[row] for row in rows], [replies[row] for row in rows])
        judged_BR = judged_mask(padded, backbone.think_ids)
        weight_BR = _weights(critic, padded, judged_BR)
        states_BRD = backbone.base_states(padded).to(head.weight.dtype)
        places, most = judged_BR > 0, max(1, MAX_LOGITS // backbone.vocab_size)
        chunks = (torch.split(each[places], most) for each in (states_BRD, weight_BR))
        for states_ND, weight_N in zip(*chunks, strict=True):
            probability_NV = (head(states_ND).float() / temperature).softmax(1)
            mean_N = probability_NV @ values_V
            variance_N = probability_NV @ values_V.square() - mean_N.square()
            total += float(variance_N @ weight_N.square())
    return total / (2 * len(rollouts))


def regression_hyperparameters(rl: Hyperparameters, data: RoundData) -> Hyperparameters:
    """Returns the hyperparameters of the regression, which needs no warm-up. Its learning rate is that of the
    settings, or one by the model's width: that of the last policy gradient says nothing of it."""
    rate = data.settings.rl.learning_rate or first_learning_rate(Model.of(data.backbone).width)
    return rl.model_copy(update={"learning_rate": rate, "warmup_steps": 0})
