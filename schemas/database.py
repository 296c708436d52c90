"""The one way to Postgres: pools, the numbered migrations, and finding oneself in another cluster.

Every connection returns rows as dictionaries. A pool checks a connection before handing it out unless it did
so within CHECKED seconds, so a Postgres that restarted is met as a short wait and rarely as an error, and a
busy service does not ask twice for each thing that it wants to know.
"""

import time
from pathlib import Path
from typing import Any, cast

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg.rows import DictRow, TupleRow, dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from schemas.errors import StartError

SQL = Path(__file__).parent / "sql"

AsyncPool = AsyncConnectionPool[AsyncConnection[DictRow]]
Pool = ConnectionPool[Connection[DictRow]]

CHECKED = 1.0

# Any constant will do as long as it never changes: whoever holds it migrates, the others wait.
_MIGRATION_LOCK = 0x4845_4152


def open_async_pool(url: str, *, size: int = 8, statement_timeout: float = 0) -> AsyncPool:
    """A pool for an event loop; open it with `async with`. `statement_timeout` is in seconds, 0 for none."""

    async def configure(connection: AsyncConnection[DictRow]) -> None:
        await connection.execute(
            "select set_config('statement_timeout', %s, false)", [f"{statement_timeout * 1000:.0f}"]
        )
        await connection.commit()

    return AsyncConnectionPool(
        url,
        connection_class=cast(Any, AsyncConnection[DictRow]),
        kwargs={"row_factory": dict_row},
        min_size=1,
        max_size=size,
        timeout=10,
        configure=configure,
        check=_check,
        open=False,
    )


async def _check(connection: AsyncConnection[DictRow]) -> None:
    """Raises psycopg.OperationalError for a connection that is broken."""
    now = time.monotonic()
    if now - getattr(connection, "checked_at", -CHECKED) >= CHECKED:
        await AsyncConnectionPool.check_connection(connection)
        connection.checked_at = now  # type: ignore[attr-defined]


def open_pool(url: str, *, size: int = 4) -> Pool:
    """A pool for threads; open it with `with`."""
    return ConnectionPool(
        url,
        connection_class=cast(Any, Connection[DictRow]),
        kwargs={"row_factory": dict_row},
        min_size=1,
        max_size=size,
        timeout=30,
        check=ConnectionPool.check_connection,
        open=False,
    )


def migrations() -> list[tuple[int, Path]]:
    """The numbered files, in order: `0001_the_loop.sql` is number 1."""
    return sorted((int(path.name.split("_")[0]), path) for path in SQL.glob("[0-9]*_*.sql"))


def migrate(url: str) -> int:
    """Bring the database up to this code's schema, under a lock; returns the version it now has.

    Raises StartError when the database is newer than this code: old code must not write to it.
    """
    known = migrations()
    newest = known[-1][0]
    with psycopg.connect(url) as connection, connection.transaction():
        connection.execute("select pg_advisory_xact_lock(%s)", [_MIGRATION_LOCK])
        connection.execute(
            "create table if not exists migrations"
            " (version integer primary key, name text not null, applied_at timestamptz default now())"
        )
        row = connection.execute("select coalesce(max(version), 0) from migrations").fetchone()
        current: int = row[0] if row else 0
        if current > newest:
            raise StartError(
                f"The database has schema version {current}, this Hearken knows only {newest}. "
                "Install a newer Hearken, or restore the backup made before the upgrade."
            )
        for version, path in known:
            if version > current:
                connection.execute(path.read_text(encoding="utf-8").encode())
                connection.execute(
                    "insert into migrations (version, name) values (%s, %s)", [version, path.stem]
                )
        _settle(connection)
    return newest


def _settle(connection: Connection[TupleRow]) -> None:
    """After a restore into another cluster, where transaction ids begin anew: what is still in the outbox
    gets ids of here, and whoever read it from Postgres reads it again, which has no effect twice."""
    here = connection.execute("select system_identifier::text from pg_control_system()").fetchone()
    known = connection.execute("select system_identifier from cluster").fetchone()
    if here == known:
        return
    if known is not None:
        connection.execute("update outbox set xid = pg_current_xact_id()")
        connection.execute("delete from positions where log = 'postgres'")
        connection.execute("delete from cluster")
    connection.execute("insert into cluster (system_identifier) values (%s)", here)
