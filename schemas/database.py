"""The one way to Postgres: pools, the numbered migrations, and finding oneself in another cluster.

Every connection returns rows as dictionaries. Both ends notice within half a minute that the other's
machine is gone, which takes an operating system hours: a service would hang, and a lock outlive its holder.
A pool checks a connection before handing it out unless it did so within CHECKED seconds, so a Postgres that
restarted is met as a short wait and rarely as an error, and a busy service does not ask twice for each
thing that it wants to know.
"""

import time
from pathlib import Path
from typing import Any, cast

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from schemas.errors import StartError

SQL = Path(__file__).parent / "sql"

AsyncPool = AsyncConnectionPool[AsyncConnection[DictRow]]
Pool = ConnectionPool[Connection[DictRow]]

CHECKED = 1.0

# Any constant will do as long as it never changes: whoever holds it migrates, the others wait.
_MIGRATION_LOCK = 0x4845_4152


LONGEST = 600.0
"""Seconds for a statement of those who have no stricter limit: what takes longer is stuck."""

_NOTICES = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
_SESSION = """
select set_config('statement_timeout', %s, false), set_config('tcp_keepalives_idle', '10', false),
    set_config('tcp_keepalives_interval', '5', false), set_config('tcp_keepalives_count', '3', false),
    set_config('tcp_user_timeout', '30000', false)
"""


def conninfo(url: str) -> str:
    """How to reach the database at `url`, and to notice when its machine is gone; what `url` says of that
    itself stays."""
    return make_conninfo("", **{**_NOTICES, **conninfo_to_dict(url)})


def connect(url: str, *, timeout: int = 10, statement_timeout: float = LONGEST) -> Connection[DictRow]:
    """A connection of its own, committing by itself. Both limits are in seconds, `timeout` being for the
    connecting, and a `statement_timeout` of 0 is none. Raises psycopg.OperationalError."""
    connection = psycopg.connect(
        conninfo(url), autocommit=True, row_factory=dict_row, connect_timeout=timeout
    )
    try:
        connection.execute(_SESSION, [_milliseconds(statement_timeout)])
    except psycopg.Error:
        connection.close()
        raise
    return connection


def open_async_pool(url: str, *, size: int = 8, statement_timeout: float = LONGEST) -> AsyncPool:
    """A pool for an event loop; open it with `async with`. `statement_timeout` is in seconds."""

    async def configure(connection: AsyncConnection[DictRow]) -> None:
        await connection.execute(_SESSION, [_milliseconds(statement_timeout)])
        await connection.commit()

    return AsyncConnectionPool(
        conninfo(url),
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

    def configure(connection: Connection[DictRow]) -> None:
        connection.execute(_SESSION, [_milliseconds(LONGEST)])
        connection.commit()

    return ConnectionPool(
        conninfo(url),
        connection_class=cast(Any, Connection[DictRow]),
        kwargs={"row_factory": dict_row},
        min_size=1,
        max_size=size,
        timeout=30,
        configure=configure,
        check=ConnectionPool.check_connection,
        open=False,
    )


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f}"


def migrations() -> list[tuple[int, Path]]:
    """The numbered files, in order: `0001_the_loop.sql` is number 1."""
    return sorted((int(path.name.split("_")[0]), path) for path in SQL.glob("[0-9]*_*.sql"))


def migrate(url: str) -> int:
    """Bring the database up to this code's schema, under a lock; returns the version it now has.

    Raises StartError when the database is newer than this code: old code must not write to it.
    """
    known = migrations()
    newest = known[-1][0]
    with connect(url, statement_timeout=0) as connection, connection.transaction():
        connection.execute("select pg_advisory_xact_lock(%s)", [_MIGRATION_LOCK])
        connection.execute(
            "create table if not exists migrations"
            " (version integer primary key, name text not null, applied_at timestamptz default now())"
        )
        row = connection.execute("select coalesce(max(version), 0) as newest from migrations").fetchone()
        current: int = row["newest"] if row else 0
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


def _settle(connection: Connection[DictRow]) -> None:
    """After a restore into another cluster, where transaction ids begin anew: what is still in the outbox
    gets ids of here, and whoever read it from Postgres reads it again, which has no effect twice."""
    here = connection.execute("select system_identifier::text from pg_control_system()").fetchone()
    known = connection.execute("select system_identifier from cluster").fetchone()
    assert here is not None  # noqa: S101  (a cluster has its identifier)
    if here == known:
        return
    if known is not None:
        connection.execute("update outbox set xid = pg_current_xact_id()")
        connection.execute("delete from consumer_offsets where log = 'postgres'")
        connection.execute("delete from cluster")
    connection.execute("insert into cluster (system_identifier) values (%(system_identifier)s)", here)
