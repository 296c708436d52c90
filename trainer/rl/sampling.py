"""This module draws a step's prompts and samples the current policy's replies to them."""

from collections.abc import Callable, Sequence

import torch

from trainer.model.rollouts import Rollout, Sampler

Samples = tuple[list[list[int]], list[Rollout]]
"""A step's rollouts, and the prompt of each."""


def step_sampler(
    prompts: Sequence[list[int]], count: int, sampler: Sampler, generator: torch.Generator
) -> Callable[[], Samples]:
    """Draws `count` of the prompts (newest first) with weight 1/√rank, and samples replies to them."""

    def sample() -> Samples:
        weights = torch.arange(1, len(prompts) + 1).rsqrt()
        picks = torch.multinomial(weights, count, replacement=len(prompts) < count, generator=generator)
        drawn = [prompts[index] for index in picks.tolist()]
        rollouts = sampler(drawn)
        return [drawn[rollout.prompt] for rollout in rollouts], rollouts

    return sample
