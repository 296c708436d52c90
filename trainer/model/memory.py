"""This module derives the token budget from the free memory: the tokens of a batch that fit into it.

What a pass with gradients keeps of each token is counted on three short rows, so it holds for every
architecture; it grows with the width of a row and, for attention, with its square. Scoring keeps less. Free
memory is never the same twice, so budgets come in steps: powers of two, and half as much again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from transformers import DynamicCache

from trainer.model.backbone import EAGER_WIDTH, MAX_LOGITS, Backbone
from trainer.model.rollouts import MAX_ROWS
from trainer.model.token_budget import MAX_TOKENS, TokenBudget

GPU_SHARE, CPU_SHARE = 0.8, 1 / 3
"""Share of the free memory that what is counted here may take. The rest is for what is not: gradients on
their way back, other processes, and on a CPU the holes in glibc's heap, as large as what it holds."""

MASK_BYTES = 8
"""Bytes of the attention masks for each pair of a row's tokens."""

LAYER_BYTES = 6
"""Bytes that a layer needs while it is computed, for each input and output of its linear layers."""

LOGIT_BYTES = 16
"""Bytes for each logit, with what a log-probability or a sampled token is computed from it by."""

MIN_TOKENS = 512
"""Least budget. Where it does not fit, training needs more memory, and `hearken train --plan` says so."""

STEPS = sorted([*(2**power for power in range(9, 18)), *(3 * 2**power for power in range(8, 16))])
"""The budgets that there are, from MIN_TOKENS to MAX_TOKENS."""

_WIDTHS = (32, 64, 96)
"""Widths of the rows that are counted, in equal steps."""


@dataclass(frozen=True, slots=True)
class PassBytes:
    """Bytes of a pass with gradients: for each `token`, and for each `pair` of tokens in a row."""

    token: float
    pair: float


@dataclass(frozen=True, slots=True)
class TokenBytes:
    """Bytes of a batch: of a pass that keeps its activations and of one that computes them again (None for
    that which `rl.gradient_checkpointing` rules out), with `pair` in rows up to `attention_width`; `sampling`
    for each token of a sampled row, and what does not depend on tokens (`fixed_training`,
    `fixed_sampling`)."""

    kept: PassBytes | None
    recomputed: PassBytes | None
    attention_width: int
    sampling: float
    fixed_training: int
    fixed_sampling: int

    @classmethod
    def count(cls, backbone: Backbone) -> "TokenBytes":
        """Counts the bytes on short rows. All processes that share weights must do so together."""
        layers = int(backbone.model.config.get_text_config().num_hidden_layers)
        loras = [module for module in backbone.model.modules() if isinstance(module, LoraLayer)]
        layer = LAYER_BYTES * sum(each.in_features + each.out_features for each in loras) / layers
        cache = (_cached(backbone, 16) - _cached(backbone, 8)) / 8
        rounded = 2 * backbone.parameter_count if backbone.bf16_autocast else 0
        packed = 2 * backbone.parameter_count if backbone.packs else 0
        setting = backbone.gradient_checkpointing
        return cls(
            None if setting is True else _pass_bytes(backbone, False, 0.0),
            None if setting is False else _pass_bytes(backbone, True, layer),
            MAX_TOKENS if backbone.on_gpu else EAGER_WIDTH,
            2 * cache + layer / 2,
            rounded + (LOGIT_BYTES * MAX_LOGITS if backbone.chunks_logits else 0),
            packed + LOGIT_BYTES * MAX_ROWS * backbone.vocab_size,
        )  # fmt: skip

    @property
    def least_batch(self) -> float:
        """The bytes that the least batches need at the least."""
        passes = [each for each in (self.kept, self.recomputed) if each is not None]
        training = min(self.training_batch(MIN_TOKENS, each) for each in passes)
        return max(training, self.sampling_batch(MIN_TOKENS))

    def training_batch(self, tokens: int, of: PassBytes) -> float:
        """Returns the bytes of a batch of so many tokens, as if they were one row."""
        pairs = of.pair * min(tokens, self.attention_width) + MASK_BYTES * tokens
        return self.fixed_training + tokens * (of.token + pairs)

    def sampling_batch(self, tokens: int) -> float:
        """Returns the bytes of sampled rows of so many tokens, of which the prompts are computed once."""
        return self.fixed_sampling + tokens * (self.sampling + MASK_BYTES * min(tokens, self.attention_width))


def token_budget(backbone: Backbone, count: TokenBytes, memory: int, copies: int) -> TokenBudget:
    """Returns the budget for so many bytes beside the weights and the optimizer; all processes get the least
    of theirs. Batches keep their activations where that fits; longer rows, or all batches where not even the
    least one fits so, compute them again. A prompt is sampled with up to `copies` replies at once."""
    usable = (GPU_SHARE if backbone.on_gpu else CPU_SHARE) * memory

    def training_tokens(of: PassBytes | None) -> int:
        return 0 if of is None else _largest(lambda tokens: count.training_batch(tokens, of), usable)

    fitting = [training_tokens(each) for each in (count.kept, count.recomputed)]
    kept, recomputed, sampling = backbone.group.least([*fitting, _largest(count.sampling_batch, usable)])
    training, sampling = max(MIN_TOKENS, kept or recomputed), max(MIN_TOKENS, sampling)
    row = min(backbone.context_length, max(training, recomputed), max(MIN_TOKENS, sampling // copies))
    return TokenBudget(training=training, sampling=sampling, row=row, kept=kept)


def _largest(bytes_of: Callable[[int], float], memory: float) -> int:
    return max((tokens for tokens in STEPS if bytes_of(tokens) <= memory), default=0)


def _pass_bytes(backbone: Backbone, checkpointing: bool, layer: float) -> PassBytes:
    """Counts a pass with gradients; one that computes activations again has those of a `layer` at a time."""
    usual, backbone.gradient_checkpointing = backbone.gradient_checkpointing, checkpointing
    try:
        short, middle, long = (_kept(backbone, width) for width in _WIDTHS)
    finally:
        backbone.gradient_checkpointing = usual
    step = _WIDTHS[1] - _WIDTHS[0]
    pair = (long - 2 * middle + short) / (2 * step**2)
    return PassBytes((middle - short) / step - pair * (_WIDTHS[0] + _WIDTHS[1]) + layer, pair)


def _kept(backbone: Backbone, width: int) -> int:
    """Returns the bytes that a pass with gradients over one row keeps for the backward pass, weights
    included. The row does not fill its columns, so that there is an attention mask."""
    half = width // 2
    batch = backbone.pad([[backbone.pad_id] * half], [[backbone.pad_id] * (half - 1)])
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(pack, lambda tensor: tensor):
        backbone.logprobs_BR(batch)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@torch.no_grad()
def _cached(backbone: Backbone, width: int) -> int:
    """Returns the bytes of the KV cache of one row."""
    cache: Any = DynamicCache(config=backbone.model.config)
    ones_BT = torch.ones(1, width, dtype=torch.long, device=backbone.device)
    backbone.next_logits_BV(ones_BT, ones_BT, ones_BT, cache)
    tensors = [value for layer in cache.layers for value in vars(layer).values() if isinstance(value, Tensor)]
    return sum(tensor.nbytes for tensor in tensors)
