"""Scoring replies with the frozen base: log-probabilities and features from one forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.model.backbone import Backbone
from trainer.model.rollouts import Rollout, pad_rows
from trainer.reward import features
from trainer.reward.features import Views

MICRO_BATCH = 16
"""Replies that one process takes at once."""


def by_length(prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]]) -> list[int]:
    """Row numbers, so that neighbours are of like length."""
    return sorted(range(len(replies)), key=lambda row: (len(replies[row]), len(prompts[row])))


@dataclass(frozen=True, slots=True)
class Measured:
    """Replies with what the base makes of them: logprobs (nats, one list a reply) and views."""

    base_logprobs: list[list[float]]
    views: Views


@torch.no_grad()
def measure(
    backbone: Backbone,
    prompts: Sequence[Sequence[int]],
    replies: Sequence[Sequence[int]],
    at_once: int = MICRO_BATCH,
) -> Measured:
    """One pass of the base over replies to prompts, in each process `at_once` at a time: with whom a reply
    shares a batch shows in its last bits."""
    layers = features.chosen_layers(backbone)
    processes = backbone.processes
    order = by_length(prompts, replies)
    base_logprobs: list[list[float]] = [[] for _ in replies]
    parts: list[Views] = []
    with backbone.reference():
        for start in range(0, len(order), at_once * processes.count):
            together = order[start : start + at_once * processes.count]
            share, own = processes.share(len(together))
            rows = together[share]
            batch = backbone.pad([prompts[row] for row in rows], [replies[row] for row in rows])
            logprobs_BR, hidden = backbone.logprobs_and_hidden(batch, layers)
            views = features.of_batch(batch, hidden)
            parts.append({name: processes.gather(view[:own]) for name, view in views.items()})
            logprobs = processes.gather(logprobs_BR[:own][batch.reply_mask_BR[:own] > 0]).cpu()
            pieces = torch.split(logprobs, [len(replies[row]) for row in together])
            for row, piece in zip(together, pieces, strict=True):
                base_logprobs[row] = piece.tolist()
    back = torch.tensor(order).argsort()
    views = {name: torch.cat([part[name] for part in parts])[back] for name in parts[0]}
    return Measured(base_logprobs, views)


def cost(rollouts: Sequence[Rollout], measured: Measured) -> Tensor:
    """(B,) nats that each sampled reply costs in KL to the base."""
    sampler_BT, mask_BT = pad_rows([rollout.logprobs for rollout in rollouts])
    base_BT, _ = pad_rows(measured.base_logprobs)
    return kl_per_reply(sampler_BT, base_BT, mask_BT)


def kl_per_reply(logprobs_BT: Tensor, reference_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """(B,) Σ log π − log π_base over a reply's tokens: on the policy's own samples, an unbiased estimate of
    KL(π‖π_base) of whole replies."""
    return ((logprobs_BT - reference_BT) * mask_BT).sum(1)
