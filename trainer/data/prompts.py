"""This module selects the prompts of a round: the newest, and a uniform sample of older ones.

Older prompts keep rare and past topics in training. Imported prompts, which nobody sent to the service, are
used only where people sent few. Prompts that are too long to train on are left out and counted. Postgres
compares prompts by a digest, so no token ids are read here.

The sample is the turns behind one place in the order of their ids' hashes, and an index has that order, so
what is read does not grow with what is stored. The places of successive rounds are a Weyl sequence, which is
spread evenly: rounds have different turns, and none is left out for long.

However many a person or a network sends, they have no more prompts than `vote_weights.bounded_totals` allows,
relative to all others'. Older prompts take the places of those that are left out.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil
from typing import Any, LiteralString

import structlog
from psycopg import Connection
from psycopg.rows import DictRow
from psycopg.sql import SQL

from feedback.person import person_of
from schemas.database import Pool
from schemas.turns import IMPORTED
from trainer.data.vote_weights import bounded_totals

MAX_TURNS = 1024
"""Turns of the newest prompts, and as many again for older and for imported ones."""

READ_TURNS = 4 * MAX_TURNS
"""Turns that are read to find MAX_TURNS whose prompts are not too long."""

MAX_PROMPT_TOKENS = 2**22
"""Tokens of all prompts of a round, which the trainer holds in memory: about 150 MB."""

OLDER_PER_NEWEST = 7 / 9
"""Most older prompts for each of the newest. A step draws prompts with weight 1/√rank, newest first
(`rl.sampling`), so a quarter of its draws are older ones: 1 − 1/√(1 + 7/9)."""

MIN_PROMPTS = 128
"""Prompts below which imported ones are added."""

WEYL_STEP = 0x9E3779B97F4A7C15
"""2⁶⁴ over the golden ratio: the distance of the places of successive rounds (Knuth 1998, section 6.4)."""

_SAMPLED: LiteralString = (
    "not starts_with(id, %(imported)s) and created_at < %(before)s and hashtextextended(id, 0)"
)
_BY_HASH: LiteralString = " order by hashtextextended(id, 0)"

log = structlog.get_logger("trainer")


@dataclass(frozen=True, slots=True)
class SelectedPrompts:
    """The `turns` of a round's prompts, newest first, one for each distinct prompt, and how many turns were
    left out because their prompts are too long."""

    turns: list[str]
    too_long: int


def select_turns(pool: Pool, project: str, draw: int, longest: int) -> SelectedPrompts:
    """Selects a round's prompts of at most `longest` tokens. `draw` determines the sample of older ones."""
    values = {"project": project, "longest": longest, "imported": IMPORTED, "limit": READ_TURNS}
    with pool.connection() as connection:
        read = _read(connection, "not starts_with(id, %(imported)s) order by created_at desc, id", values)
        newest, too_long = _not_too_long(read)
        older: list[DictRow] = []
        if len(newest) == MAX_TURNS or len(read) == READ_TURNS:
            before = {**values, "before": newest[-1]["created_at"] if newest else read[-1]["created_at"]}
            older, _ = _not_too_long(_sample(connection, draw, before))
        first_of = {row["digest"]: row for row in reversed(newest)}
        everybodys = list(reversed(first_of.values()))
        older = _new_prompts(older, first_of)
        chosen, older = _bounded(everybodys, older)
        wanted = max(int((1 + OLDER_PER_NEWEST) * len(everybodys)), MIN_PROMPTS) - len(chosen)
        chosen += sorted(older[:wanted], key=lambda row: row["created_at"], reverse=True)
        if len(chosen) < MIN_PROMPTS:
            imported, _ = _not_too_long(
                _read(connection, "starts_with(id, %(imported)s) order by created_at desc, id", values)
            )
            chosen += _new_prompts(imported, first_of)[: MIN_PROMPTS - len(chosen)]
    if too_long:
        log.warning("prompts too long to train on", left_out=too_long, longest=longest)
    return SelectedPrompts(_within_memory(chosen), too_long)


def _sample(connection: Connection[DictRow], draw: int, values: dict[str, Any]) -> list[DictRow]:
    """Returns the earlier turns behind the draw's place in the order of hashes, which goes on with the first
    one behind the last."""
    place = (draw * WEYL_STEP + 2**63) % 2**64 - 2**63
    read = _read(connection, _SAMPLED + " >= %(place)s" + _BY_HASH, {**values, "place": place})
    left = READ_TURNS - len(read)
    if left:
        values = {**values, "place": place, "limit": left}
        read += _read(connection, _SAMPLED + " < %(place)s" + _BY_HASH, values)
    return read


def _read(connection: Connection[DictRow], which: LiteralString, values: dict[str, Any]) -> list[DictRow]:
    """Returns at most READ_TURNS turns, and the digest of each prompt that is not too long."""
    statement = SQL(
        "select id, created_at, {person} as owner,"
        " cardinality(prompt_token_ids) as tokens,"
        " case when cardinality(prompt_token_ids) <= %(longest)s"
        " then sha256(array_send(prompt_token_ids)) end as digest"
        " from (select * from turns where project = %(project)s"
        " and not request ?| array['media', 'question', 'demonstration']"
        " and cardinality(prompt_token_ids) > 0 and {which}"
        " limit %(limit)s) as read"
    )
    parts = {"person": SQL(person_of("read")), "which": SQL(which)}
    return connection.execute(statement.format(**parts), values).fetchall()


def _not_too_long(read: Sequence[DictRow]) -> tuple[list[DictRow], int]:
    """Returns the first MAX_TURNS rows whose prompt is not too long, and how many others came before them."""
    found: list[DictRow] = []
    for place, row in enumerate(read):
        if len(found) == MAX_TURNS:
            return found, place - MAX_TURNS
        if row["digest"] is not None:
            found.append(row)
    return found, len(read) - len(found)


def _new_prompts(rows: Sequence[DictRow], first_of: dict[bytes, DictRow]) -> list[DictRow]:
    """Returns the rows whose prompt is not in `first_of`, and adds them to it."""
    found = []
    for row in rows:
        if row["digest"] not in first_of:
            first_of[row["digest"]] = row
            found.append(row)
    return found


def _bounded(newest: Sequence[DictRow], older: Sequence[DictRow]) -> tuple[list[DictRow], list[DictRow]]:
    """Returns the rows without those that their owners have too many of, of the newest first."""
    counts = Counter[str](row["owner"] for row in (*newest, *older))
    left = {owner: ceil(most) for owner, most in bounded_totals(counts, MIN_PROMPTS).items()}
    found: tuple[list[DictRow], list[DictRow]] = [], []
    for rows, kept in zip((newest, older), found, strict=True):
        for row in rows:
            left[row["owner"]] -= 1
            if left[row["owner"]] >= 0:
                kept.append(row)
    return found


def _within_memory(chosen: Sequence[DictRow]) -> list[str]:
    """Returns the turns of as many of the first prompts as have MAX_PROMPT_TOKENS tokens together."""
    total = accumulate(row["tokens"] for row in chosen)
    return [row["id"] for row, tokens in zip(chosen, total, strict=True) if tokens <= MAX_PROMPT_TOKENS]
