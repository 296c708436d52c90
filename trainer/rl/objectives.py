"""What a step of the optimiser follows: one class for each algorithm, all fed by the same loop.

rloo, grpo    the policy gradient on the step's own samples, whose advantages are taken over the other
              replies to the prompt, or over the group's mean
online_dpo    of the samples of each prompt, the one of most reward is preferred to the one of least (Guo et
              al. 2024)
dpo, kto      the votes themselves, and no reward model: pairs of replies of which one was preferred, or
              single replies that were liked or not; the step's samples only show the guard where we are

Each adds its gradient to the adapter's, in micro-batches of like length. Beside any of them, demonstrations
can be imitated: what people wrote, or what of the base's own replies they like.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, assert_never

import torch
from torch import Tensor
from torch.nn.functional import pad

from schemas.settings import RLSettings
from trainer.model.backbone import Backbone, PaddedBatch
from trainer.model.rollouts import Rollout, pad_rows
from trainer.reward.scoring import MICRO_BATCH, by_length
from trainer.rl import losses

SURE = 0.9
"""What the base gives this probability, the taste has no say in: a fact, the rest of a word, most grammar."""

HELD = 10.0
"""How much dearer KL is there. A fact that is wrong twice as often costs hardly any KL, so that at β alone
rewards' noise wears facts away."""


@dataclass(frozen=True, slots=True)
class Samples:
    """A step's replies to its prompts, in the order of the prompts: `rows` is the prompt of each. `beta` is
    the price of KL at this step, `held` where the base was sure, `kl` what was measured on the samples, nats
    a reply."""

    rows: Sequence[list[int]]
    rollouts: Sequence[Rollout]
    rewards_PK: Tensor
    base_logprobs: Sequence[Sequence[float]]
    beta: float
    held: float
    kl: float

    @property
    def token_ids(self) -> list[list[int]]:
        return [rollout.token_ids for rollout in self.rollouts]


class Objective(Protocol):
    def descend(self, backbone: Backbone, samples: Samples) -> None:
        """Add the gradient of the loss."""
        ...


@dataclass(frozen=True, slots=True)
class PolicyGradient:
    """Token by token, with importance weights against the sampler. A token's advantage is what the
    reply earns from there on, KL to the base charged at β, against what the others of the prompt do. Where
    the base was sure, KL is charged at another price besides."""

    advantages: Callable[[Tensor], Tensor]
    importance_weight_cap: float

    def descend(self, backbone: Backbone, samples: Samples) -> None:
        sampled_BT, _ = pad_rows([rollout.logprobs for rollout in samples.rollouts])
        base_BT, _ = pad_rows(samples.base_logprobs)
        returns_PKT = losses.returns(samples.rewards_PK, sampled_BT, base_BT, samples.beta)
        advantages_BT = self.advantages(returns_PKT).flatten(0, 1)
        tokens = sum(map(len, samples.token_ids))
        order = by_length(samples.rows, samples.token_ids)
        at_once = MICRO_BATCH * backbone.group.size
        for start in range(0, len(order), at_once):
            part = order[start : start + at_once]
            batch = backbone.pad(
                [samples.rows[row] for row in part], [samples.rollouts[row].token_ids for row in part]
            )
            sampler_BR, base_BR = _like(batch, sampled_BT[part]), _like(batch, base_BT[part])
            advantages_BR = _like(batch, advantages_BT[part])
            logprobs_BR = backbone.logprobs_BR(batch)
            loss = losses.policy_gradient(
                logprobs_BR, sampler_BR, advantages_BR, batch.reply_mask_BR,
                importance_weight_cap=self.importance_weight_cap,
            )  # fmt: skip
            unsure = losses.unsure(logprobs_BR, base_BR, batch.reply_mask_BR, SURE)
            loss = loss + samples.held * unsure
            (loss * batch.reply_mask_BR.sum() / tokens).backward()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Judged:
    """A reply with what the base gives it, nats in all."""

    prompt_ids: list[int]
    token_ids: list[int]
    base_logprob: float


Pair = tuple[Judged, Judged, float]
"""A reply, the one that it was preferred to, and what that weighs."""


class OnlineDPO:
    def descend(self, backbone: Backbone, samples: Samples) -> None:
        count = samples.rewards_PK.shape[1]
        best, worst = samples.rewards_PK.argmax(1).tolist(), samples.rewards_PK.argmin(1).tolist()
        judged = [
            Judged(list(row), rollout.token_ids, sum(base))
            for row, rollout, base in zip(samples.rows, samples.rollouts, samples.base_logprobs, strict=True)
        ]
        pairs = [
            (judged[prompt * count + better], judged[prompt * count + worse], 1.0)
            for prompt, (better, worse) in enumerate(zip(best, worst, strict=True))
            if better != worse
        ]
        _descend_pairs(backbone, pairs, samples.beta)


class DPO:
    """On `pairs` of votes, `at_once` of them a step, drawn by `generator`."""

    def __init__(self, pairs: Sequence[Pair], at_once: int, generator: torch.Generator) -> None:
        self._pairs = pairs
        self._draw = _Draw(len(pairs), at_once, generator)

    def descend(self, backbone: Backbone, samples: Samples) -> None:
        _descend_pairs(backbone, [self._pairs[index] for index in self._draw()], samples.beta)


class KTO:
    """On replies that were called good or not, each with what that weighs, `at_once` of them a step, drawn by
    `generator`."""

    def __init__(
        self, judged: Sequence[tuple[Judged, bool, float]], at_once: int, generator: torch.Generator
    ) -> None:
        self._judged = judged
        self._draw = _Draw(len(judged), at_once, generator)

    def descend(self, backbone: Backbone, samples: Samples) -> None:
        chosen = [self._judged[index] for index in self._draw()]
        at_once = MICRO_BATCH * backbone.group.size
        for start in range(0, len(chosen), at_once):
            part = chosen[start : start + at_once]
            ratio_B = _log_ratios(backbone, [judged for judged, _, _ in part])
            good_B = torch.tensor([good for _, good, _ in part], device=ratio_B.device)
            weight_B = torch.tensor([weight for _, _, weight in part], device=ratio_B.device)
            loss_B = losses.kto(ratio_B, good_B, max(samples.kl, 0.0), samples.beta)
            ((weight_B * loss_B).sum() / len(chosen)).backward()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A reply to say more often, and what that weighs."""

    prompt_ids: list[int]
    token_ids: list[int]
    weight: float


class Imitating:
    """Another objective, and beside it `weight` times the imitation of demonstrations: `at_once` of them a
    step, drawn by `generator`."""

    def __init__(
        self,
        beside: Objective,
        demonstrations: Sequence[Demonstration],
        weight: float,
        at_once: int,
        generator: torch.Generator,
    ) -> None:
        self._beside = beside
        self._demonstrations = demonstrations
        self._weight = weight
        self._draw = _Draw(len(demonstrations), min(at_once, len(demonstrations)), generator)

    def descend(self, backbone: Backbone, samples: Samples) -> None:
        self._beside.descend(backbone, samples)
        chosen = [self._demonstrations[index] for index in self._draw()]
        prompts, replies = [each.prompt_ids for each in chosen], [each.token_ids for each in chosen]
        order, tokens = by_length(prompts, replies), sum(map(len, replies))
        at_once = MICRO_BATCH * backbone.group.size
        for start in range(0, len(order), at_once):
            part = order[start : start + at_once]
            batch = backbone.pad([prompts[row] for row in part], [replies[row] for row in part])
            weights_B = torch.tensor([chosen[row].weight for row in part], device=backbone.device)
            loss = losses.imitation(backbone.logprobs_BR(batch), batch.reply_mask_BR, weights_B)
            share = batch.reply_mask_BR.sum() / tokens
            (self._weight * share * loss).backward()  # type: ignore[no-untyped-call]


class _Draw:
    """Each once before any a second time."""

    def __init__(self, count: int, at_once: int, generator: torch.Generator) -> None:
        self._count = count
        self._at_once = at_once
        self._generator = generator
        self._left: list[int] = []

    def __call__(self) -> list[int]:
        while len(self._left) < self._at_once:
            self._left += torch.randperm(self._count, generator=self._generator).tolist()
        drawn, self._left = self._left[: self._at_once], self._left[self._at_once :]
        return drawn


def _descend_pairs(backbone: Backbone, pairs: Sequence[Pair], beta: float) -> None:
    half = MICRO_BATCH * backbone.group.size // 2
    for start in range(0, len(pairs), half):
        part = pairs[start : start + half]
        replies = [better for better, _, _ in part] + [worse for _, worse, _ in part]
        ratio_B = _log_ratios(backbone, replies)
        weight_P = torch.tensor([weight for _, _, weight in part], device=ratio_B.device)
        loss_P = losses.dpo(ratio_B[: len(part)], ratio_B[len(part) :], beta)
        ((weight_P * loss_P).sum() / len(pairs)).backward()  # type: ignore[no-untyped-call]


def _log_ratios(backbone: Backbone, judged: Sequence[Judged]) -> Tensor:
    """(B,) log π − log π_base of whole replies, with gradient."""
    batch = backbone.pad([each.prompt_ids for each in judged], [each.token_ids for each in judged])
    base_B = torch.tensor([each.base_logprob for each in judged], device=backbone.device)
    return backbone.logprobs_BR(batch).sum(1) - base_B


def _like(batch: PaddedBatch, values_BT: Tensor) -> Tensor:
    """(B, R) as many columns as the replies of the batch have, zeros where there is no value."""
    return pad(values_BT, (0, batch.reply_length - values_BT.shape[1])).to(batch.reply_mask_BR)


def on_samples(rl: RLSettings) -> Objective | None:
    """Of an algorithm that learns from the step's samples; None for one that learns from the votes."""
    match rl.algorithm:
        case "rloo":
            return PolicyGradient(losses.leave_one_out, rl.importance_weight_cap)
        case "grpo":
            return PolicyGradient(losses.above_group, rl.importance_weight_cap)
        case "online_dpo":
            return OnlineDPO()
        case "dpo" | "kto":
            return None
        case _:
            assert_never(rl.algorithm)
