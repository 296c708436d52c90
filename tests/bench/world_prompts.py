"""Prompts of the starter's world in parts that share no text: traffic, judgment and final questions.

The part of a prompt follows from its text alone, so that it is the same for all seeds and counts. Prompts
that the trainer itself asks as knowledge questions are in no part.
"""

import hashlib
from collections.abc import Callable

from deploy.simulation.evaluation import trainer_questions
from deploy.simulation.prompt_text import normalised
from trainer.starter.world import Prompt, factual_prompts, prompts

_PARTS = ("traffic",) * 6 + ("judgment",) * 2 + ("questions",) * 2


def traffic(count: int, seed: int) -> list[Prompt]:
    """Samples `count` prompts that people send."""
    return _sample(prompts, "traffic", count, seed)


def judgment(count: int, seed: int) -> list[Prompt]:
    """Samples `count` prompts on which a policy's approval is measured."""
    return _sample(prompts, "judgment", count, seed)


def questions(count: int, seed: int) -> list[Prompt]:
    """Samples `count` factual prompts on which a policy's knowledge is measured."""
    return _sample(factual_prompts, "questions", count, seed)


def _sample(draw: Callable[[int, int], list[Prompt]], part: str, count: int, seed: int) -> list[Prompt]:
    drawn = 8 * count
    while True:
        found = [prompt for prompt in draw(drawn, seed) if _part(prompt.prompt) == part]
        if len(found) >= count:
            return found[:count]
        drawn *= 2  # the longer draw begins with the shorter


def _part(prompt: str) -> str | None:
    text = normalised(prompt)
    if text in trainer_questions():
        return None
    return _PARTS[int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest()) % len(_PARTS)]
