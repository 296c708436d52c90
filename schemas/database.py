"""The one way to Postgres: pools, and the numbered migrations.

Every connection returns rows as dictionaries. A pool checks a connection before handing it out, so a
Postgres that restarted is met as a short wait and not as an error.
"""

from pathlib import Path
from typing import Any, cast

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from schemas.errors import StartError

SQL = Path(__file__).parent / "sql"

AsyncPool = AsyncConnectionPool[AsyncConnection[DictRow]]
Pool = ConnectionPool[Connection[DictRow]]

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
        check=AsyncConnectionPool.check_connection,
        open=False,
    )


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
    return newest
