"""This module builds a round's objective: the algorithm's loss, with SFT on base samples, and what people's
edits and comments teach beside it."""

from collections.abc import Sequence

from trainer.data.examples import Example, Key
from trainer.data.feature_cache import FeatureCache
from trainer.data.split import RoundData
from trainer.model.rollouts import Rollout
from trainer.reward.ensemble import RewardModel
from trainer.rl.objectives import DPO, KTO, Objective, ScoredReply, policy_objective
from trainer.rl.replay import ReplayBuffer, WithReplay
from trainer.rl.reward_shaping import ShapedReward
from trainer.rl.sft import Demonstration, SFTLoss, WithSFT

BASE_SAMPLES_SHARE = 0.25
"""Batch size of SFT on base samples, relative to the step's samples."""


def training_objective(
    data: RoundData, cache: FeatureCache, model: RewardModel, reward: ShapedReward,
    base: Sequence[Rollout], demonstrations: Sequence[Demonstration],
) -> Objective:  # fmt: skip
    """Returns the objective, without what edits teach (`edit_objective`). `base` are the base's samples to
    the first of the prompts, `demonstrations` the same weighted (`sft.weighted_base_samples`)."""
    rl = data.rl
    on_policy = policy_objective(rl)
    weighted = weighted_votes(data, model)
    if on_policy is None:
        objective = _preference_objective(data, cache, weighted)
    else:
        prompts = data.train_prompts[: rl.base_prompts]
        buffer = ReplayBuffer.of(data.backbone, prompts, base, reward, rl.temperature)
        objective = WithReplay(on_policy, buffer, rl.prompts_per_step, data.generator("replay"))
        if rl.base_sft_coef and demonstrations:
            generator = data.generator("exemplars")
            size = max(1, round(BASE_SAMPLES_SHARE * rl.prompts_per_step * rl.samples_per_prompt))
            sft = SFTLoss(demonstrations, rl.base_sft_coef, size, generator, rl.temperature)
            objective = WithSFT(objective, sft)
    return objective


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
