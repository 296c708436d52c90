"""This module measures how fast this machine samples and trains with a base model, in a few seconds.

The number of replies that a round samples follows from it, so that a round takes about the time that it may.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from trainer.model.backbone import Backbone
from trainer.model.rollouts import SamplingSpec, adapter_sampler

PROMPTS, SAMPLES, PROMPT_TOKENS, REPLY_TOKENS = 8, 4, 32, 8
"""Size of the measured batch of sampling."""

ROWS, ROW_TOKENS = 4, 64
"""Size of the measured batch of training, half of its tokens being the reply's."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second: of replies sampled in a batch, of prompts and replies in a forward and backward pass,
    and in a forward pass."""

    sampling: float
    training: float
    scoring: float

    @classmethod
    def measure(cls, backbone: Backbone) -> "Speed":
        """Measures the speed of this process; the adapter is as before. The faster of two runs counts."""
        prompts = [[backbone.pad_id] * PROMPT_TOKENS] * PROMPTS
        spec = SamplingSpec(SAMPLES, REPLY_TOKENS)
        counts: list[int] = []

        def sample() -> None:
            sampler = adapter_sampler(backbone, spec, torch.Generator().manual_seed(len(counts)))
            counts.append(sum(len(rollout.token_ids) for rollout in sampler(prompts)))

        half = ROW_TOKENS // 2
        batch = backbone.pad([[backbone.pad_id] * half] * ROWS, [[backbone.pad_id] * half] * ROWS)

        def train() -> None:
            backbone.logprobs_BR(batch).sum().backward()  # type: ignore[no-untyped-call]
            for weight in backbone.trainable():
                weight.grad = None

        def score() -> None:
            with torch.no_grad():
                backbone.logprobs_BR(batch)

        tokens = ROWS * ROW_TOKENS
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
