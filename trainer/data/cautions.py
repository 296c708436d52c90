"""Cautions are what a round changes because the gate blocked candidates of the rounds before it.

A constraint has a level: how many of the last RECALL candidates it blocked, at most MOST_LEVEL. Where a reply
shows the behaviour by itself, the round's reward is less a penalty of so many levels
(`evaluation.constraints.penalty`). Where it does not, β of the KL penalty is doubled with each level. The
levels are part of the round's inputs, so a round that is repeated is repeated with them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from schemas.constraints import CONSTRAINTS
from trainer.data.hyperparameters import Hyperparameters

RECALL = 8
"""Candidates, the newest ones, whose blocked constraints count."""

MOST_LEVEL = 3
"""Highest level of a constraint: β is then eightfold."""


def levels(blocked: Iterable[Iterable[str]]) -> dict[str, int]:
    """Returns the level of each constraint, given the names of those that blocked each of the last
    candidates."""
    counts = Counter(name for name in chain.from_iterable(map(set, blocked)) if name in CONSTRAINTS)
    return {name: min(counts[name], MOST_LEVEL) for name in CONSTRAINTS if counts[name]}


def cautious(rl: Hyperparameters, cautions: Mapping[str, int], described: dict[str, Any]) -> Hyperparameters:
    """Returns hyperparameters with β for these levels; says so in `described`."""
    unseen = {name: level for name, level in cautions.items() if not CONSTRAINTS[name].in_reply}
    if not unseen:
        return rl
    kl_coef = rl.kl_coef * 2 ** max(unseen.values())
    words = ", ".join(CONSTRAINTS[name].words.lower() for name in unseen)
    described["kl_coef"] = {
        "value": kl_coef,
        "reason": f"raised, since the gate blocked candidates for {words}",
    }
    return rl.model_copy(update={"kl_coef": kl_coef})
