"""This module measures how fast this machine samples and trains with a base model, in a few seconds.

The number of replies that a round samples follows from it, so that a round takes about the time that it may.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from trainer.model.backbone import Backbone
from trainer.model.rollouts import SamplingSpec, adapter_sampler

PROMPT_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Sizes:
    """The measured batches: `samples` replies of `reply_tokens` tokens to each of `prompts` prompts, and
    `rows` rows of `row_tokens` tokens to train on, half of them the reply's."""

    prompts: int
    samples: int
    reply_tokens: int
    rows: int
    row_tokens: int


ON_CPU, ON_GPU = Sizes(8, 4, 8, 4, 64), Sizes(16, 8, 64, 16, 256)
"""A GPU is slow with small batches, and a CPU takes long for large ones."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second: of replies sampled in a batch, of prompts and replies in a forward and backward pass,
    and in a forward pass."""

    sampling: float
    training: float
    scoring: float

    @classmethod
    def measure(cls, backbone: Backbone) -> "Speed":
        """Measures the speed of this process, and of its sampling engine where it has one; the adapter is as
        before. The faster of two runs counts. Raises EngineError."""
        sizes = ON_GPU if backbone.on_gpu else ON_CPU
        prompts = [[backbone.pad_id] * PROMPT_TOKENS] * sizes.prompts
        spec = SamplingSpec(sizes.samples, sizes.reply_tokens)
        counts: list[int] = []

        def sample() -> None:
            sampler = adapter_sampler(backbone, spec, torch.Generator().manual_seed(len(counts)))
            counts.append(sum(len(rollout.token_ids) for rollout in sampler(prompts)))

        half = sizes.row_tokens // 2
        rows = max(1, min(sizes.rows, backbone.token_budget.training // sizes.row_tokens))
        batch = backbone.pad([[backbone.pad_id] * half] * rows, [[backbone.pad_id] * half] * rows)

        def train() -> None:
            backbone.logprobs_BR(batch).sum().backward()  # type: ignore[no-untyped-call]
            for weight in backbone.trainable():
                weight.grad = None

        def score() -> None:
            with torch.no_grad():
                backbone.logprobs_BR(batch)

        tokens = rows * sizes.row_tokens
        return cls(_counts_per_second(sample, counts), tokens / _fastest(train), tokens / _fastest(score))


def _counts_per_second(work: Callable[[], None], counts: list[int]) -> float:
    """Returns the larger of two runs' counts (which `work` appends) a second."""
    seconds = [_seconds(work) for _ in range(2)]
    return max(count / each for count, each in zip(counts, seconds, strict=True))


def _fastest(work: Callable[[], None]) -> float:
    return min(_seconds(work) for _ in range(2))


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # a GPU works on when the call returns
    return time.perf_counter() - began
