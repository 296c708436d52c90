"""This module builds a round's objective: the algorithm's loss, with SFT on base samples, and what people's
edits and comments teach beside it."""

from collections.abc import Sequence
from statistics import fmean

import structlog
import torch
from torch import Tensor

from trainer.data.examples import Example, Key
from trainer.data.feature_cache import FeatureCache
from trainer.data.split import RoundData
from trainer.model.rollouts import Rollout
from trainer.reward.ensemble import RewardModel
from trainer.reward.features import answer_length
from trainer.rl.objectives import DPO, KTO, Objective, ScoredReply, policy_objective
from trainer.rl.replay import ReplayBuffer, WithReplay
from trainer.rl.reward_shaping import ShapedReward
from trainer.rl.sft import Demonstration, SFTLoss, WithSFT
from trainer.rl.token_critic import LEAST_REPLAYED, TokenCritic, fit_values, sampled_share

log = structlog.get_logger("trainer")

BASE_SAMPLES_SHARE = 0.25
"""Batch size of SFT on base samples, relative to the step's samples."""

MAX_VOTED = 512
"""Voted replies, the newest, from which the values of tokens are found beside the base's samples."""


def training_objective(
    data: RoundData, cache: FeatureCache, model: RewardModel, reward: ShapedReward,
    base: Sequence[Rollout], demonstrations: Sequence[Demonstration], critic: TokenCritic | None,
) -> Objective:  # fmt: skip
    """Returns the objective, without what edits teach (`edit_objective`). `base` are the base's samples to
    the first of the prompts, `demonstrations` the same weighted (`sft.weighted_base_samples`). With a critic
    on which nearly all depends, the base's samples are not trained on: their returns would be noise."""
    rl = data.rl
    on_policy = policy_objective(rl, critic)
    weighted = weighted_votes(data, model)
    if on_policy is None:
        objective = _preference_objective(data, cache, weighted)
    else:
        if critic is not None and critic.is_most:
            return on_policy
        prompts = data.train_prompts[: rl.base_prompts]
        buffer = ReplayBuffer.of(data.backbone, prompts, base, reward, rl.temperature)
        objective = WithReplay(on_policy, buffer, rl.prompts_per_step, data.generator("replay"))
        if rl.base_sft_coef and demonstrations:
            generator = data.generator("exemplars")
            size = max(1, round(BASE_SAMPLES_SHARE * rl.prompts_per_step * rl.samples_per_prompt))
            coef = rl.base_sft_coef * (1.0 if critic is None else critic.share)
            sft = SFTLoss(demonstrations, coef, size, generator, rl.temperature)
            objective = WithSFT(objective, sft)
    return objective


def token_critic(
    data: RoundData,
    cache: FeatureCache,
    reward: ShapedReward,
    base: Sequence[Rollout],
    base_rewards_N: Tensor,
) -> TokenCritic | None:
    """Returns the critic of a policy gradient whose steps have too few samples for the length of the replies;
    None where they have enough, where tokens explain nothing of the reward, and for other algorithms.
    `base_rewards_N` are the rewards of the base's samples."""
    rl, backbone = data.rl, data.backbone
    replies = [rollout.token_ids for rollout in base]
    samples, length = rl.prompts_per_step * rl.samples_per_prompt, fmean(map(len, replies))
    share = sampled_share(2 * samples, length)  # as many are replayed
    if rl.algorithm not in ("rloo", "grpo") or share == 1:
        return None
    embeddings_VD = backbone.model.get_input_embeddings().weight
    whole = len(embeddings_VD) == backbone.vocab_size  # as many rows as there are logits
    if backbone.group.size > 1 or not backbone.chunks_logits or not whole:
        return None
    rewards_N, prompts = base_rewards_N, [rollout.prompt for rollout in base]
    if reward.heads is None:
        keys = list(dict.fromkeys(key for each in data.training for key in each.reply_keys))[-MAX_VOTED:]
        replies += [data.corpus.replies[key].token_ids for key in keys]
        rewards_N = torch.cat([rewards_N, reward.model(cache.features(keys))])
        prompts += [-1 - row for row in range(len(keys))]
    replies = [reply[-answer_length(reply, backbone.think_ids) :] for reply in replies]
    found = fit_values(embeddings_VD, replies, rewards_N, torch.tensor(prompts))
    if found is None:
        return None
    values_V, explained = found
    values_V[backbone.eos_ids] = 0.0
    if share < LEAST_REPLAYED:
        share = sampled_share(samples, length)
    critic = TokenCritic(values_V, explained, share)
    log.info("token critic", explained=round(explained, 3), sampled_share=round(share, 3))
    return critic


def weighted_votes(data: RoundData, model: RewardModel) -> list[tuple[Example, float]]:
    """Returns the training votes, each with its age weight times its rater's reliability by `model`."""
    votes, _ = data.votes()
    reliabilities = model.reliability_U[votes.rater_of_vote].clamp(0, 1).tolist()
    weights = [age * reliability for age, reliability in zip(votes.weights, reliabilities, strict=True)]
    return list(zip(data.training, weights, strict=True))


def _preference_objective(
    data: RoundData, cache: FeatureCache, weighted: list[tuple[Example, float]]
) -> Objective:
    def scored(key: Key) -> ScoredReply:
        reply = data.corpus.replies[key]
        return ScoredReply(reply.prompt_ids, reply.token_ids, cache.base_logprob(key))

    rl, generator = data.rl, data.generator("votes")
    if rl.algorithm == "dpo":
        pairs = [
            (scored(chosen), scored(rejected), weight)
            for chosen, rejected, weight in data.corpus.pairs(weighted)
        ]
        return DPO(pairs, rl.prompts_per_step, generator)
    labelled = [(scored(key), good, weight) for key, good, weight in data.corpus.labelled(weighted)]
    return KTO(labelled, 2 * rl.prompts_per_step, generator)
