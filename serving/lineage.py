"""The lineage of a policy: the policies that it was trained from, back to the base."""

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from schemas.policies import BASE

Connection = AsyncConnection[DictRow]


async def rolled_back_ancestor(connection: Connection, project: str, policy: str) -> str | None:
    """Returns the nearest ancestor of `policy` that was rolled back, up to the first that ever was live: what
    became of the policies before that one is no matter of its descendants."""
    cursor = await connection.execute(
        "select id from ancestors_since_live(%s, %s) where state = 'rolled_back' order by depth limit 1",
        [project, policy],
    )
    row = await cursor.fetchone()
    return row["id"] if row else None


async def mark_inherited(connection: Connection, project: str, policy: str) -> None:
    """Marks the ancestors of a live policy that never were live: what they learned is live from now on."""
    await connection.execute(
        "update policies p set inherited_at = now() from ancestors_since_live(%(project)s, %(policy)s) a"
        " where p.project = %(project)s and p.id = a.id and p.live_at is null and p.inherited_at is null",
        {"project": project, "policy": policy},
    )


async def nearest_ancestor(connection: Connection, project: str, policy: str) -> str:
    """Returns the nearest retired ancestor of `policy` that ever was live and is neither pruned nor tainted,
    or the base."""
    cursor = await connection.execute(
        """
        with recursive lineage (id, depth) as (
            select parent, 1 from policies where project = %(project)s and id = %(policy)s
            union all
            select p.parent, depth + 1 from policies p join lineage l on p.id = l.id
            where p.project = %(project)s
        )
        select p.id from lineage l join policies p on p.id = l.id and p.project = %(project)s
        where p.state = 'retired' and p.live_at is not null and p.pruned_at is null
            and p.tainted_at is null
        order by l.depth limit 1
        """,
        {"project": project, "policy": policy},
    )
    row = await cursor.fetchone()
    return row["id"] if row else BASE
