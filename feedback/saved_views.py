"""A saved view is a filter of the feedback desk that was given a name, for all operators of a project."""

from collections.abc import Collection
from urllib.parse import parse_qs

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from schemas.errors import Conflict

MOST_VIEWS = 100
"""Saved views of a project."""

Connection = AsyncConnection[DictRow]


async def views(connection: Connection, project: str) -> list[DictRow]:
    """Returns the views of a project by name."""
    cursor = await connection.execute(
        "select name, query, created_at from saved_views where project = %s order by name limit %s",
        [project, MOST_VIEWS],
    )
    return await cursor.fetchall()


async def naming(connection: Connection, project: str, names: Collection[str]) -> list[DictRow]:
    """Returns the views that name a person by one of these names or pseudonyms."""
    found = await views(connection, project)
    return [view for view in found if not set(names).isdisjoint(parse_qs(view["query"]).get("user", []))]


async def save(connection: Connection, project: str, name: str, query: str) -> None:
    """Stores a view; one of this name is replaced. Raises Conflict where there are MOST_VIEWS."""
    async with connection.transaction():
        await connection.execute("select from projects where id = %s for update", [project])
        names = {view["name"] for view in await views(connection, project)}
        if name not in names and len(names) >= MOST_VIEWS:
            raise Conflict(f"There are {MOST_VIEWS} saved views; delete one first.", code="too_many_views")
        await connection.execute(
            "insert into saved_views (project, name, query) values (%s, %s, %s)"
            " on conflict (project, name) do update set query = excluded.query",
            [project, name, query],
        )


async def delete(connection: Connection, project: str, name: str) -> bool:
    """Deletes a view; returns whether there was one."""
    gone = await connection.execute(
        "delete from saved_views where project = %s and name = %s", [project, name]
    )
    return gone.rowcount > 0
