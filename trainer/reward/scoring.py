"""This module scores replies with the frozen base: log-probabilities and features from one forward pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trainer.model.backbone import Backbone
from trainer.model.batch import PaddedBatch
from trainer.model.rollouts import Rollout, pad_rows
from trainer.model.token_budget import split
from trainer.reward.features import (
    AUXILIARY,
    MAX_MAGNITUDE,
    FeatureGroups,
    at_last,
    judged_mask,
    masked_features,
    select_layers,
)
from trainer.reward.lora_heads import LORA_HEADS, LoraHeads

MICRO_BATCH = 16
"""Most replies that one process scores in one forward pass."""

PREFIX_STRIDE, MAX_PREFIXES = 8, 32
"""Tokens from one prefix of a reply that is valued to the next, and the most of them: replies of more than
256 tokens have larger strides."""

Reward = Callable[[FeatureGroups], Tensor]
"""Maps the features of N replies to rewards (N,)."""

SHORT_PROMPT = 512
"""Tokens of a prompt up to which batches are sorted by the reply alone."""


def micro_batches(
    backbone: Backbone,
    prompts: Sequence[Sequence[int]],
    replies: Sequence[Sequence[int]],
    max_rows: int = MICRO_BATCH,
) -> list[list[int]]:
    """Returns the row numbers in batches within the backbone's token budget and of at most `max_rows` rows
    in each process. Rows of similar length share a batch, so that batches need little padding: rows are
    sorted by the length of the reply, those with long prompts apart, by doublings of the prompt's length."""

    def key(row: int) -> tuple[int, int, int]:
        prompt = len(prompts[row])
        return (max(0, prompt - 1) // SHORT_PROMPT).bit_length(), len(replies[row]), prompt

    order = sorted(range(len(replies)), key=key)
    lengths = [(len(prompts[row]), len(replies[row])) for row in order]
    parts = split(lengths, backbone.token_budget.training, max_rows, backbone.group.size)
    return [order[part] for part in parts]


@dataclass(frozen=True, slots=True)
class Scored:
    """The base's log-probabilities (nats, one list of tokens a reply), its most likely token at each place
    with its log-probability at temperature 1, and the features of replies. `values` has the reward of the
    reply before each of its tokens (`prefix_values`), zeros where no reward was given."""

    base_logprobs: list[list[float]]
    features: FeatureGroups
    top_ids: list[list[int]] = field(default_factory=list)
    top_logprobs: list[list[float]] = field(default_factory=list)
    values: list[list[float]] = field(default_factory=list)

    def of(self, rows: Sequence[int]) -> "Scored":
        """Returns the scores of some of the replies."""
        return Scored(
            [self.base_logprobs[row] for row in rows],
            {name: group[list(rows)] for name, group in self.features.items()},
            [self.top_ids[row] for row in rows],
            [self.top_logprobs[row] for row in rows],
            [self.values[row] for row in rows],
        )


@torch.no_grad()
def score(
    backbone: Backbone,
    prompts: Sequence[Sequence[int]],
    replies: Sequence[Sequence[int]],
    micro_batch: int = MICRO_BATCH,
    temperature: float = 1.0,
    reward: Reward | None = None,
    heads: LoraHeads | None = None,
) -> Scored:
    """Scores replies to prompts with the base, at most `micro_batch` at a time in each process; the
    log-probabilities are at `temperature`. With a `reward`, the prefixes of the replies are valued too. With
    `heads`, their logits are among the features. The last bits of a score depend on the other replies of its
    batch."""
    layers = select_layers(backbone)
    group = backbone.group
    batches = micro_batches(backbone, prompts, replies, micro_batch)
    base_logprobs: list[list[float]] = [[] for _ in replies]
    top_ids: list[list[int]] = [[] for _ in replies]
    top_logprobs: list[list[float]] = [[] for _ in replies]
    values: list[list[float]] = [[] for _ in replies]
    parts: list[FeatureGroups] = []
    with backbone.reference():
        for together in batches:
            share, own = group.shard_rows(len(together))
            rows = together[share]
            batch = backbone.pad([prompts[row] for row in rows], [replies[row] for row in rows])
            found = backbone.base_scores(batch, layers, temperature)
            judged = _Judged.of(backbone, batch, found.hidden, heads)
            features = judged.features(judged.mask_BR)
            if backbone.auxiliary is not None:
                texts = _texts(batch, judged.mask_BR, backbone)
                prefixes = [backbone.decode(prompts[row]) for row in rows]
                seen_ND = backbone.auxiliary.features(prefixes, texts)
                features[AUXILIARY] = seen_ND.clamp(-MAX_MAGNITUDE, MAX_MAGNITUDE).half()
            parts.append({name: group.all_gather(each[:own]) for name, each in features.items()})
            written_BR = batch.reply_mask_BR[:own] > 0
            values_BR = torch.zeros_like(found.logprobs_BR)
            if reward is not None:
                values_BR = prefix_values(judged, reward)
            columns: list[tuple[Any, Tensor]] = [
                (base_logprobs, found.logprobs_BR),
                (top_ids, found.top_ids_BR),
                (top_logprobs, found.top_logprobs_BR),
                (values, values_BR),
            ]
            for lists, column_BR in columns:
                values_N = group.all_gather(column_BR[:own][written_BR]).cpu()
                for row, piece in zip(
                    together, torch.split(values_N, [len(replies[row]) for row in together]), strict=True
                ):
                    lists[row] = piece.tolist()
    inverse = torch.tensor([row for together in batches for row in together]).argsort()
    features = {name: torch.cat([part[name] for part in parts])[inverse] for name in parts[0]}
    return Scored(base_logprobs, features, top_ids, top_logprobs, values)


@dataclass(frozen=True, slots=True)
class _Judged:
    """A scored batch: its hidden states by layer, the mask of the tokens that are judged, and the logits of
    the heads after each of them (B, R, M), where there are heads."""

    batch: PaddedBatch
    hidden: Sequence[Tensor]
    mask_BR: Tensor
    heads_BRM: Tensor | None

    @classmethod
    def of(
        cls, backbone: Backbone, batch: PaddedBatch, hidden: Sequence[Tensor], heads: LoraHeads | None
    ) -> "_Judged":
        mask_BR = judged_mask(batch, backbone.think_ids)
        if heads is None:
            return cls(batch, hidden, mask_BR, None)
        states_BRD = hidden[select_layers(backbone).index(heads.upper.layer)]
        return cls(batch, hidden, mask_BR, heads.by_token(states_BRD, mask_BR))

    def features(self, mask_BR: Tensor) -> FeatureGroups:
        """Returns the features of the reply tokens in a mask."""
        found = masked_features(self.batch, self.hidden, mask_BR)
        if self.heads_BRM is not None:
            found[LORA_HEADS] = at_last(self.heads_BRM, mask_BR).cpu()
        return found


def _texts(batch: PaddedBatch, mask_BR: Tensor, backbone: Backbone) -> list[str]:
    """Returns the text of the tokens of each reply in a mask."""
    rows = zip(batch.reply_tokens_BR, mask_BR > 0, strict=True)
    return [backbone.decode(tokens_R[judged_R].tolist()) for tokens_R, judged_R in rows]


def prefix_values(judged: _Judged, reward: Reward) -> Tensor:
    """Returns the (B, R) reward of each reply as it was before each token, in strides of PREFIX_STRIDE judged
    tokens; 0 within the first stride, where there is too little to judge. The hidden states of a causal model
    do not depend on later tokens, so one forward pass has those of all prefixes."""
    mask_BR = judged.mask_BR
    upto_BR = mask_BR.cumsum(1)
    longest = int(upto_BR.max())
    stride = max(PREFIX_STRIDE, -(-longest // MAX_PREFIXES))
    values = [torch.zeros(len(mask_BR))]
    for tokens in range(stride, longest, stride):
        values.append(reward(judged.features(mask_BR * (upto_BR <= tokens))).float())
    values_BC = torch.stack(values, 1).to(mask_BR.device)
    before_BR = (upto_BR - mask_BR).long() // stride
    return values_BC.gather(1, before_BR.clamp_max(len(values) - 1)) * judged.batch.reply_mask_BR


@torch.no_grad()
def upper_inputs(
    backbone: Backbone, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]], layer: int
) -> list[Tensor]:
    """Returns the (R, D) hidden states of a layer of the base at the judged tokens of each reply, in half
    precision."""
    found: list[Tensor] = [torch.empty(0)] * len(replies)
    with backbone.reference():
        for rows in micro_batches(backbone, prompts, replies):
            batch = backbone.pad([prompts[row] for row in rows], [replies[row] for row in rows])
            [states_BRD] = backbone.base_scores(batch, [layer]).hidden
            judged_BR = judged_mask(batch, backbone.think_ids) > 0
            for row, states_RD, judged_R in zip(rows, states_BRD, judged_BR, strict=True):
                found[row] = states_RD[judged_R].clamp(-MAX_MAGNITUDE, MAX_MAGNITUDE).half().cpu()
    return found


def kl_to_base(rollouts: Sequence[Rollout], scored: Scored) -> Tensor:
    """Returns the (B,) KL estimates of sampled replies to the base, in nats a reply."""
    sampler_BT, mask_BT = pad_rows([rollout.logprobs for rollout in rollouts])
    base_BT, _ = pad_rows(scored.base_logprobs)
    return kl_per_reply(sampler_BT, base_BT, mask_BT)


def kl_per_reply(logprobs_BT: Tensor, reference_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Returns (B,) Σ log π − log π_base over a reply's tokens: on the policy's own samples, an unbiased
    estimate of the KL(π‖π_base) of whole replies."""
    return ((logprobs_BT - reference_BT) * mask_BT).sum(1)
