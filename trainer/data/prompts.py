"""The prompts that a round practises on: those that people sent last, and with them some of all that they
sent before, so that what is asked seldom, or was asked long ago, goes on being practised.

Imported prompts, which nobody sent, are practised on only where people sent few.
"""

from collections.abc import Sequence

from psycopg.rows import DictRow

from schemas.database import Pool
from schemas.turns import IMPORTED

NEWEST = 1024
"""Turns that are looked at for the newest prompts, and again as many for the older ones."""

OLDER = 7 / 9
"""Most older prompts for each of the newest. As a step draws by 1/√rank, newest first (`improve`), they get a
quarter of the draws: 1 − 1/√(1 + 7/9)."""

FEWEST = 128
"""Prompts that imported ones are added up to."""


def to_practise(pool: Pool, project: str, draw: int) -> list[str]:
    """The turns that sent them, newest first; of those with the same prompt only the newest. Older ones are
    drawn evenly from all that are kept, by chance that `draw` seeds."""
    with pool.connection() as connection:
        newest = connection.execute(
            "select id, prompt_token_ids, created_at from turns"
            " where project = %s and not starts_with(id, %s) order by created_at desc, id limit %s",
            [project, IMPORTED, NEWEST],
        ).fetchall()
        turn_of = {tuple(row["prompt_token_ids"]): row["id"] for row in reversed(newest)}
        chosen = list(reversed(turn_of.values()))
        if len(newest) == NEWEST:
            older = connection.execute(
                "select id, prompt_token_ids, created_at from turns"
                " where project = %s and not starts_with(id, %s) and created_at < %s"
                " order by hashtextextended(id, %s) limit %s",
                [project, IMPORTED, newest[-1]["created_at"], draw, NEWEST],
            ).fetchall()
            fresh = _unlike(older, turn_of)[: int(OLDER * len(chosen))]
            chosen += [row["id"] for row in sorted(fresh, key=lambda row: row["created_at"], reverse=True)]
        if len(chosen) < FEWEST:
            imported = connection.execute(
                "select id, prompt_token_ids from turns where project = %s and starts_with(id, %s)"
                " order by created_at desc, id limit %s",
                [project, IMPORTED, NEWEST],
            ).fetchall()
            chosen += [row["id"] for row in _unlike(imported, turn_of)][: FEWEST - len(chosen)]
    return chosen


def _unlike(rows: Sequence[DictRow], turn_of: dict[tuple[int, ...], str]) -> list[DictRow]:
    """Those whose prompt is not in `turn_of` yet, and is then."""
    found = []
    for row in rows:
        prompt = tuple(row["prompt_token_ids"])
        if prompt not in turn_of:
            turn_of[prompt] = row["id"]
            found.append(row)
    return found
