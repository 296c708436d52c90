"""This module draws a step's prompts and samples the current policy's replies to them."""

from collections.abc import Callable, Sequence

import torch

from trainer.model.rollouts import Rollout, Sampler

Samples = tuple[list[list[int]], list[Rollout]]
"""A step's rollouts, and the prompt of each."""


def step_sampler(
    prompts: Sequence[list[int]], count: int, sampler: Sampler, generator: torch.Generator,
    draw_first: Callable[[], list[list[int]]] = list,
) -> Callable[[], Samples]:  # fmt: skip
    """Draws `count` prompts and samples replies to them: those that `draw_first` returns come first, and the
    rest are drawn of `prompts` (newest first) with weight 1/√rank."""

    def sample() -> Samples:
        drawn = draw_first()
        weights, left = torch.arange(1, len(prompts) + 1).rsqrt(), count - len(drawn)
        if left:
            picks = torch.multinomial(weights, left, replacement=len(prompts) < left, generator=generator)
            drawn += [prompts[index] for index in picks.tolist()]
        rollouts = sampler(drawn)
        return [drawn[rollout.prompt] for rollout in rollouts], rollouts

    return sample
