"""An objective adds the gradient of one algorithm's loss to the adapter's gradient, in micro-batches.

rloo, grpo    the policy gradient on the step's samples, with leave-one-out or group-mean advantages
online_dpo    DPO between the samples of the highest and the lowest reward of each prompt (Guo et al. 2024)
dpo, kto      DPO on preference pairs, or KTO on labelled replies, from the votes and without a reward model;
              the step's samples then only show the guard where the policy is
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, assert_never

import torch
from torch import Tensor
from torch.nn.functional import pad

from trainer.data.hyperparameters import Hyperparameters
from trainer.model.backbone import Backbone
from trainer.model.batch import PaddedBatch
from trainer.model.rollouts import pad_rows
from trainer.model.token_budget import split
from trainer.reward.scoring import MICRO_BATCH, micro_batches
from trainer.rl import advantages, losses
from trainer.rl.batch import Batch

CONFIDENT_PROBABILITY = 0.9
"""Least probability of the base's most likely token where it is confident: a fact, the rest of a word, most
grammar."""

CONFIDENT_KL_SCALE = 10.0
"""Factor on β for the KL on confident tokens. At β alone, noise in the rewards would erode facts, since a
fact that is wrong twice as often costs hardly any KL."""


class Objective(Protocol):
    """A loss that the optimizer loop can train on."""

    def backward(self, backbone: Backbone, batch: Batch) -> None:
        """Adds the gradient of the loss on a step's batch."""
        ...


@dataclass(frozen=True, slots=True)
class PolicyGradient:
    """The token-level policy gradient with truncated importance weights against the sampler. A token's
    advantage is the generalised advantage estimate, less the KL penalty to go, above the baseline that
    `advantages` subtracts. The KL on confident tokens is a loss of its own."""

    advantages: Callable[[Tensor], Tensor]
    importance_weight_cap: float
    temperature: float = 1.0

    def backward(self, backbone: Backbone, batch: Batch) -> None:
        sampler_BT, _ = pad_rows([rollout.logprobs for rollout in batch.rollouts])
        base_BT, _ = pad_rows(batch.base_logprobs)
        top_ids_BT, _ = pad_rows(batch.scored.top_ids)
        base_top_BT, _ = pad_rows(batch.scored.top_logprobs)
        values_BT, _ = pad_rows(batch.scored.values)
        lengths_B = torch.tensor([len(reply) for reply in batch.replies])
        gains_PKT = advantages.generalised_advantages(batch.rewards_PK, values_BT, lengths_B)
        penalty_BT = batch.kl_coef * advantages.kl_to_go(sampler_BT, base_BT)
        advantages_BT = self.advantages(gains_PKT - penalty_BT.view(gains_PKT.shape)).flatten(0, 1)
        prompts, replies = batch.prompts, batch.replies
        tokens = sum(map(len, replies))
        for rows in micro_batches(backbone, prompts, replies):
            padded = backbone.pad([prompts[row] for row in rows], [replies[row] for row in rows])
            mask_BR, top_ids_BR = padded.reply_mask_BR, align(padded, top_ids_BT[rows]).long()
            logprobs_BR, top_BR = backbone.logprobs_with(padded, top_ids_BR, self.temperature)
            advantages_BR = align(padded, advantages_BT[rows])
            loss = losses.policy_gradient(
                logprobs_BR, align(padded, sampler_BT[rows]), advantages_BR, mask_BR,
                importance_weight_cap=self.importance_weight_cap,
            )  # fmt: skip
            base_top_BR = align(padded, base_top_BT[rows])
            kl = losses.confident_token_kl(top_BR, base_top_BR, mask_BR, CONFIDENT_PROBABILITY)
            loss = loss + batch.confident_kl_coef * kl
            (loss * mask_BR.sum() / tokens).backward()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class ScoredReply:
    """A reply to a prompt with its log-probability under the base, nats in total."""

    prompt_ids: list[int]
    token_ids: list[int]
    base_logprob: float


Pair = tuple[ScoredReply, ScoredReply, float]
"""A chosen reply, a rejected reply, and the pair's weight."""


@dataclass(frozen=True, slots=True)
class OnlineDPO:
    """DPO between the best and the worst sample of each prompt."""

    temperature: float = 1.0

    def backward(self, backbone: Backbone, batch: Batch) -> None:
        count = batch.rewards_PK.shape[1]
        best, worst = batch.rewards_PK.argmax(1).tolist(), batch.rewards_PK.argmin(1).tolist()
        scored = [
            ScoredReply(list(prompt), reply, sum(base))
            for prompt, reply, base in zip(batch.prompts, batch.replies, batch.base_logprobs, strict=True)
        ]
        pairs = [
            (scored[prompt * count + chosen], scored[prompt * count + rejected], 1.0)
            for prompt, (chosen, rejected) in enumerate(zip(best, worst, strict=True))
            if chosen != rejected
        ]
        _dpo_backward(backbone, pairs, batch.kl_coef, self.temperature)


class DPO:
    """DPO on preference pairs of the votes, `batch_size` pairs a step."""

    def __init__(self, pairs: Sequence[Pair], batch_size: int, generator: torch.Generator) -> None:
        self._pairs = pairs
        self._draw = EpochSampler(len(pairs), batch_size, generator)

    def backward(self, backbone: Backbone, batch: Batch) -> None:
        _dpo_backward(backbone, [self._pairs[index] for index in self._draw()], batch.kl_coef)


class KTO:
    """KTO on replies with a binary label and a weight, `batch_size` replies a step."""

    def __init__(
        self,
        labelled: Sequence[tuple[ScoredReply, bool, float]],
        batch_size: int,
        generator: torch.Generator,
    ) -> None:
        self._labelled = labelled
        self._draw = EpochSampler(len(labelled), batch_size, generator)

    def backward(self, backbone: Backbone, batch: Batch) -> None:
        chosen = [self._labelled[index] for index in self._draw()]
        kl = max(batch.kl, 0.0)
        lengths = [(len(reply.prompt_ids), len(reply.token_ids)) for reply, _, _ in chosen]
        for rows in split(lengths, backbone.token_budget.training, MICRO_BATCH, backbone.group.size):
            part = chosen[rows]
            ratio_B = _log_ratios(backbone, [reply for reply, _, _ in part])
            good_B = torch.tensor([good for _, good, _ in part], device=ratio_B.device)
            weight_B = torch.tensor([weight for _, _, weight in part], device=ratio_B.device)
            loss_B = losses.kto(ratio_B, good_B, kl, batch.kl_coef)
            ((weight_B * loss_B).sum() / len(chosen)).backward()  # type: ignore[no-untyped-call]


class EpochSampler:
    """Draws `batch_size` of `count` indices at a time without replacement, epoch after epoch."""

    def __init__(self, count: int, batch_size: int, generator: torch.Generator) -> None:
        self._count = count
        self._batch_size = batch_size
        self._generator = generator
        self._left: list[int] = []

    def __call__(self) -> list[int]:
        while len(self._left) < self._batch_size:
            self._left += torch.randperm(self._count, generator=self._generator).tolist()
        drawn, self._left = self._left[: self._batch_size], self._left[self._batch_size :]
        return drawn


def policy_objective(rl: Hyperparameters) -> Objective | None:
    """Returns the objective of an algorithm that trains on the step's samples; None for DPO and KTO."""
    match rl.algorithm:
        case "rloo":
            return PolicyGradient(advantages.leave_one_out, rl.importance_weight_cap, rl.temperature)
        case "grpo":
            return PolicyGradient(advantages.group_mean, rl.importance_weight_cap, rl.temperature)
        case "online_dpo":
            return OnlineDPO(rl.temperature)
        case "dpo" | "kto":
            return None
        case _:
            assert_never(rl.algorithm)


def _dpo_backward(backbone: Backbone, pairs: Sequence[Pair], beta: float, temperature: float = 1.0) -> None:
    lengths = [
        (max(len(one.prompt_ids), len(other.prompt_ids)), max(len(one.token_ids), len(other.token_ids)))
        for one, other, _ in pairs
    ]
    tokens = backbone.token_budget.training // 2
    for rows in split(lengths, tokens, MICRO_BATCH // 2, backbone.group.size):
        part = pairs[rows]
        replies = [chosen for chosen, _, _ in part] + [rejected for _, rejected, _ in part]
        ratio_B = _log_ratios(backbone, replies, temperature)
        weight_P = torch.tensor([weight for _, _, weight in part], device=ratio_B.device)
        loss_P = losses.dpo(ratio_B[: len(part)], ratio_B[len(part) :], beta)
        ((weight_P * loss_P).sum() / len(pairs)).backward()  # type: ignore[no-untyped-call]


def _log_ratios(backbone: Backbone, replies: Sequence[ScoredReply], temperature: float = 1.0) -> Tensor:
    """Returns (B,) log π − log π_base of whole replies, with gradient."""
    batch = backbone.pad([each.prompt_ids for each in replies], [each.token_ids for each in replies])
    base_B = torch.tensor([each.base_logprob for each in replies], device=backbone.device)
    return backbone.logprobs_BR(batch, temperature).sum(1) - base_B


def align(batch: PaddedBatch, values_BT: Tensor) -> Tensor:
    """Pads values to the (B, R) reply columns of a batch, with zeros."""
    return pad(values_BT, (0, batch.reply_length - values_BT.shape[1])).to(batch.reply_mask_BR)
