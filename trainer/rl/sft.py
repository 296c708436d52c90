"""SFT is an auxiliary loss on demonstrations: people's edits, and base samples weighted by their reward; in a
round that starts from the base again, voted replies as well."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from trainer.data.examples import Key, Reply
from trainer.model.backbone import Backbone
from trainer.reward.criteria_reward import CriteriaReward
from trainer.reward.ensemble import RewardModel
from trainer.reward.features import FeatureGroups
from trainer.reward.projection import BaseFeatures
from trainer.reward.scoring import micro_batches
from trainer.rl import losses
from trainer.rl.batch import Batch
from trainer.rl.objectives import EpochSampler, Objective

MIN_WEIGHT = 0.05
"""Base samples of a lower weight are left out."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A reply to train on, with its weight."""

    prompt_ids: list[int]
    token_ids: list[int]
    weight: float


@dataclass(frozen=True, slots=True)
class SFTLoss:
    """The weighted negative log-likelihood of demonstrations, `batch_size` of them a step, times `coef`."""

    demonstrations: Sequence[Demonstration]
    coef: float
    batch_size: int
    generator: torch.Generator
    temperature: float = 1.0


class WithSFT:
    """An objective with an SFT auxiliary loss."""

    def __init__(self, objective: Objective, sft: SFTLoss) -> None:
        self._objective = objective
        self._sft = sft
        count = len(sft.demonstrations)
        self._draw = EpochSampler(count, min(sft.batch_size, count), sft.generator)

    def backward(self, backbone: Backbone, batch: Batch) -> None:
        self._objective.backward(backbone, batch)
        drawn = [self._sft.demonstrations[index] for index in self._draw()]
        sft_backward(backbone, drawn, self._sft.coef, self._sft.temperature)


def sft_backward(backbone: Backbone, drawn: Sequence[Demonstration], coef: float, temperature: float) -> None:
    """Adds the gradient of `coef` times the weighted negative log-likelihood of demonstrations, nats per
    token of theirs. Tokens of prompts have none."""
    prompts, replies = [each.prompt_ids for each in drawn], [each.token_ids for each in drawn]
    tokens = sum(map(len, replies))
    for rows in micro_batches(backbone, prompts, replies):
        padded = backbone.pad([prompts[row] for row in rows], [replies[row] for row in rows])
        weights_B = torch.tensor([drawn[row].weight for row in rows], device=backbone.device)
        logprobs_BR = backbone.logprobs_BR(padded, temperature)
        loss = losses.weighted_nll(logprobs_BR, padded.reply_mask_BR, weights_B)
        share = padded.reply_mask_BR.sum() / tokens
        (coef * share * loss).backward()  # type: ignore[no-untyped-call]


@torch.no_grad()
def nll(backbone: Backbone, demonstrations: Sequence[Demonstration], temperature: float) -> float:
    """Returns the negative log-likelihood of demonstrations under the current adapter, nats per token."""
    prompts = [each.prompt_ids for each in demonstrations]
    replies = [each.token_ids for each in demonstrations]
    total = 0.0
    for rows in micro_batches(backbone, prompts, replies):
        padded = backbone.pad([prompts[row] for row in rows], [replies[row] for row in rows])
        total -= float(backbone.logprobs_BR(padded, temperature).sum())
    return total / sum(map(len, replies))


def weighted_voted_replies(
    replies: Mapping[Key, Reply],
    features_of: Callable[[list[Key]], FeatureGroups],
    reward: CriteriaReward,
    kl_coef: float,
) -> list[Demonstration]:
    """Returns voted replies, weighted like the base's (`weighted_base_samples`)."""
    keys = list(replies)
    weights = _weights(reward.reward(features_of(keys)), reward, kl_coef)
    return [
        Demonstration(replies[key].prompt_ids, replies[key].token_ids, weight)
        for key, weight in zip(keys, weights, strict=True)
        if weight >= MIN_WEIGHT
    ]


def weighted_base_samples(
    prompts: Sequence[list[int]],
    replies: Sequence[list[int]],
    base: BaseFeatures,
    reward: RewardModel | CriteriaReward,
    kl_coef: float,
) -> list[Demonstration]:
    """Returns the base's replies to the first prompts, which `base` has the features of, weighted by
    exp((reward − max_reward)/β). The optimal policy of a KL-regularised reward is the base reweighted by
    exp(reward/β) (Peters and Schaal 2007), so these samples come from it."""
    weights = _weights(reward.reward(base.groups), reward, kl_coef)
    return [
        Demonstration(prompts[row // base.samples_per_prompt], token_ids, weight)
        for row, (token_ids, weight) in enumerate(zip(replies, weights, strict=True))
        if weight >= MIN_WEIGHT
    ]


def _weights(rewards_N: torch.Tensor, reward: RewardModel | CriteriaReward, kl_coef: float) -> list[float]:
    weights: list[float] = ((rewards_N - reward.max_reward) / max(kl_coef, 1e-3)).exp().tolist()
    return weights
