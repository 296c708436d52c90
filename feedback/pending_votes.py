"""Pending votes are those that no round has begun with yet; they are counted up to a bound only. A vote that
is changed is no new one."""

from typing import LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from schemas.feedback import JUDGE

_PENDING: LiteralString = """
with last as (
    select coalesce(max(started_at), '-infinity') as began from rounds
    where project = %(project)s and not coalesce(starts_with(reason, 'interrupted'), false)
)
select (
    select count(*) from (
        select from feedback f where project = %(project)s and created_at > (select began from last)
            and type <> 'signal' and not starts_with(rater, %(judge)s) and {first} limit %(most)s
    ) as new
) as waiting, (
    select count(*) from (
        select from feedback f where project = %(project)s and type <> 'signal'
            and not starts_with(rater, %(judge)s) and {first} limit %(least)s
    ) as all_votes
) as arrived, (
    select max(created_at) from feedback where project = %(project)s
) as newest
"""
_FIRST: LiteralString = "not exists (select from feedback where superseded_by = f.id)"


async def pending_votes(
    connection: AsyncConnection[DictRow], project: str, *, most: int, least: int
) -> DictRow:
    """Returns the people's votes since the last round began (`waiting`, at most `most`), all that ever came
    (`arrived`, at most `least`), and the time of the `newest`."""
    values = {"project": project, "judge": JUDGE, "most": most, "least": least}
    row = await (await connection.execute(_PENDING.format(first=_FIRST), values)).fetchone()
    assert row is not None  # noqa: S101  (the query returns one row)
    return row
