"""Consent is a person's own choice whether what they say and vote is kept and learned from.

It is a row in the database. Every statement that stores a turn or a vote looks at it, and at what the
project asks for (`may_store`), so it holds in all processes at once. What was stored before a refusal stays:
to delete it is an erasure.
"""

from collections.abc import Sequence
from typing import Any, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from feedback.erasures import person_hash
from schemas.times import rfc3339

Connection = AsyncConnection[DictRow]

_CHOOSE: LiteralString = """
insert into consents (project, hash, learning, set_by)
select %s, unnest(%s::bytea[]), %s, %s
on conflict (project, hash) do update
set learning = excluded.learning, set_by = excluded.set_by, set_at = excluded.set_at
returning learning, set_at
"""
_CHOICE: LiteralString = """
select learning, set_at from consents where project = %s and hash = any(%s) order by set_at desc limit 1
"""


async def choose(
    connection: Connection, project: str, raters: Sequence[str], learning: bool, set_by: str
) -> dict[str, Any]:
    """Records the choice of the person with these pseudonyms; returns it as the API shows it."""
    cursor = await connection.execute(_CHOOSE, [project, _hashes(project, raters), learning, set_by])
    return _shown(await cursor.fetchone())


async def choice(connection: Connection, project: str, raters: Sequence[str]) -> dict[str, Any]:
    """Returns what the person with these pseudonyms chose last, as the API shows it: null for nothing."""
    cursor = await connection.execute(_CHOICE, [project, _hashes(project, raters)])
    return _shown(await cursor.fetchone())


def _hashes(project: str, raters: Sequence[str]) -> list[bytes]:
    """Returns the hashes of a person's pseudonyms, in one order, so that writers never deadlock."""
    return sorted(person_hash(project, rater) for rater in raters)


def _shown(row: DictRow | None) -> dict[str, Any]:
    if row is None:
        return {"learning": None, "set_at": None}
    return {"learning": row["learning"], "set_at": rfc3339(row["set_at"])}
