"""This module selects the prompts of a round: the newest, and a uniform sample of older ones.

Older prompts keep rare and past topics in training. Imported prompts, which nobody sent to the service, are
used only where people sent few.
"""

from collections.abc import Sequence

from psycopg.rows import DictRow

from schemas.database import Pool
from schemas.turns import IMPORTED

MAX_TURNS = 1024
"""Turns that are read for the newest prompts, and as many again for older and for imported ones."""

OLDER_PER_NEWEST = 7 / 9
"""Most older prompts for each of the newest. A step draws prompts with weight 1/√rank, newest first
(`rl.sampling`), so a quarter of its draws are older ones: 1 − 1/√(1 + 7/9)."""

MIN_PROMPTS = 128
"""Prompts below which imported ones are added."""


def select_turns(pool: Pool, project: str, draw: int) -> list[str]:
    """Returns the turns of a round's prompts, newest first, one for each distinct prompt. `draw` seeds the
    sample of older ones."""
    with pool.connection() as connection:
        newest = connection.execute(
            "select id, prompt_token_ids, created_at from turns"
            " where project = %s and not starts_with(id, %s) order by created_at desc, id limit %s",
            [project, IMPORTED, MAX_TURNS],
        ).fetchall()
        turn_of = {tuple(row["prompt_token_ids"]): row["id"] for row in reversed(newest)}
        chosen = list(reversed(turn_of.values()))
        if len(newest) == MAX_TURNS:
            older = connection.execute(
                "select id, prompt_token_ids, created_at from turns"
                " where project = %s and not starts_with(id, %s) and created_at < %s"
                " order by hashtextextended(id, %s) limit %s",
                [project, IMPORTED, newest[-1]["created_at"], draw, MAX_TURNS],
            ).fetchall()
            fresh = _new_prompts(older, turn_of)[: int(OLDER_PER_NEWEST * len(chosen))]
            chosen += [row["id"] for row in sorted(fresh, key=lambda row: row["created_at"], reverse=True)]
        if len(chosen) < MIN_PROMPTS:
            imported = connection.execute(
                "select id, prompt_token_ids from turns where project = %s and starts_with(id, %s)"
                " order by created_at desc, id limit %s",
                [project, IMPORTED, MAX_TURNS],
            ).fetchall()
            chosen += [row["id"] for row in _new_prompts(imported, turn_of)][: MIN_PROMPTS - len(chosen)]
    return chosen


def _new_prompts(rows: Sequence[DictRow], turn_of: dict[tuple[int, ...], str]) -> list[DictRow]:
    """Returns the rows whose prompt is not in `turn_of`, and adds them to it."""
    found = []
    for row in rows:
        prompt = tuple(row["prompt_token_ids"])
        if prompt not in turn_of:
            turn_of[prompt] = row["id"]
            found.append(row)
    return found
