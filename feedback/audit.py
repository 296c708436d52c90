"""The audit log names who changed what. The database itself writes most of it (0035_audit_log.sql); this
module writes what its triggers do not see, and reads it."""

from typing import Any, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow

MOST_ENTRIES = 500
"""Entries of one page."""

_NOTE: LiteralString = """
insert into audit_log (project, actor, action, target) values (
    %s, coalesce(nullif(current_setting('hearken.actor', true), ''), 'database:' || session_user), %s, %s)
"""
_ENTRIES: LiteralString = """
select id, at, actor, action, target, details from audit_log
where project = %(project)s and (%(before)s::bigint is null or id < %(before)s)
    and (%(actor)s::text is null or actor = %(actor)s)
    and (%(action)s::text is null or action = %(action)s or starts_with(action, %(action)s || '.'))
    and (%(target)s::text is null or target = %(target)s)
order by id desc limit %(limit)s
"""


async def note(connection: AsyncConnection[DictRow], project: str, action: str, target: str) -> None:
    """Writes an entry, in the transaction of the change that it is about."""
    await connection.execute(_NOTE, [project, action, target])


async def entries(
    connection: AsyncConnection[DictRow], project: str, limit: int, before: int | None = None, **wanted: Any
) -> list[DictRow]:
    """Returns the newest entries of a project, from before the entry `before`; only those of an `actor`, an
    `action` (or all of a kind, such as `key`) and a `target` where they are given."""
    values = {"actor": None, "action": None, "target": None, **wanted}
    values |= {"project": project, "before": before, "limit": limit}
    return await (await connection.execute(_ENTRIES, values)).fetchall()
