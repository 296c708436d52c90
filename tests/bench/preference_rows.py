"""Votes as preference pairs, which TRL's RewardTrainer reads."""

import itertools
import random
from collections.abc import Sequence
from typing import Any

from tests.bench.voters import Visit


def preference_rows(visits: Sequence[Visit], rng: random.Random) -> list[dict[str, Any]]:
    """Returns the votes as pairs: the two groups of a ranking, and each thumb up with a thumb down on another
    reply, both with their own prompts."""
    rows: list[dict[str, Any]] = []
    thumbs: dict[str, list[list[dict[str, str]]]] = {"up": [], "down": []}
    for visit in visits:
        turn, vote = visit.turn, visit.vote
        dialogues = [[*turn.messages, {"role": "assistant", "content": reply.text}] for reply in turn.replies]
        if vote.type == "thumb":
            thumbs[vote.value].append(dialogues[0])
        elif vote.type == "ranking" and len(vote.ranking) > 1:
            (better,), (worse,) = vote.ranking
            rows.append({"chosen": dialogues[better], "rejected": dialogues[worse]})
    if all(thumbs.values()):
        for each in thumbs.values():
            rng.shuffle(each)
        pairs = zip(itertools.cycle(thumbs["up"]), itertools.cycle(thumbs["down"]), strict=False)
        longest = max(map(len, thumbs.values()))
        rows += [{"chosen": up, "rejected": down} for up, down in itertools.islice(pairs, longest)]
    return rows
