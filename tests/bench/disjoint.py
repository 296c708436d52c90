"""The sets of prompts of a bench share no text: a prompt that a policy practised is no evidence."""

from collections.abc import Iterable
from itertools import combinations

from deploy.simulation.prompt_text import normalised


def assert_disjoint(**sets: Iterable[str]) -> None:
    """Raises AssertionError, with examples, when two of the named sets of prompts share a normalised text."""
    found = {name: {normalised(prompt) for prompt in prompts} for name, prompts in sets.items()}
    for one, other in combinations(found, 2):
        shared = sorted(found[one] & found[other])
        if shared:
            share = f"{len(shared)} of {len(found[other])}"
            raise AssertionError(f"{share} prompts of {other} are prompts of {one}, too: {shared[:3]}")
