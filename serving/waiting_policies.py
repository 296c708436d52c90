"""Policies wait until they are loaded and verified: those that an operator asked for, and, unless operators
decide about all, those that were published."""

from typing import LiteralString, NamedTuple

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from schemas.projects import Promotion

_WAITING: LiteralString = """
    select w.project, w.id, asked_at is not null as asked,
        asked_at is null and (
            coalesce(p.promotion, %(promotion)s) in ('canary', 'duel')
            or coalesce(gate ->> 'outcome' = 'unknown', false)
        ) as tried,
        exists (
            select from erasures where project = w.project and done_at is null
                and steps #>> '{rebuild,live}' = w.id
        ) as replaces
    from policies w join projects p on p.id = w.project
    where (state = 'published' or (asked_at is not null and state <> 'rejected')) and pruned_at is null
        and (asked_at is not null or coalesce(p.promotion, %(promotion)s) <> 'manual')
    order by w.project, w.created_at, w.id
"""


class WaitingPolicy(NamedTuple):
    """A policy that is not live yet: whether somebody asked for it, whether people are to try it, and whether
    it replaces what learned from somebody who is erased."""

    policy: str
    asked: bool
    tried: bool
    replaces: bool


async def fetch_waiting(
    connection: AsyncConnection[DictRow], promotion: Promotion
) -> dict[str, list[WaitingPolicy]]:
    """Returns the policies that wait, by project; `promotion` is that of projects that set none. One query
    serves all projects, however many there are."""
    cursor = await connection.execute(_WAITING, {"promotion": promotion})
    found: dict[str, list[WaitingPolicy]] = {}
    for row in await cursor.fetchall():
        policy = WaitingPolicy(row["id"], row["asked"], row["tried"], row["replaces"])
        found.setdefault(row["project"], []).append(policy)
    return found
