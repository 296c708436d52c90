"""This module opens connections and pools to Postgres, and applies the numbered migrations.

Connections return rows as dictionaries. Keepalives let both ends notice a lost machine within half a minute
instead of hours; otherwise a service would hang, and a lock outlive its holder. A pool checks a connection
before lending it, at most once in CHECK_INTERVAL seconds, so a restart of Postgres costs a short wait and
rarely an error, and a busy service pays no extra round trips.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import anyio
import psycopg
import structlog
from psycopg import AsyncConnection, AsyncServerCursor, Connection, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from schemas.errors import StartError

SQL = Path(__file__).parent / "sql"

log = structlog.get_logger("database")

AsyncPool = AsyncConnectionPool[AsyncConnection[DictRow]]
Pool = ConnectionPool[Connection[DictRow]]

CHECK_INTERVAL = 1.0
"""Seconds for which a checked connection counts as good."""

MAX_STATEMENT_SECONDS = 600.0
"""Default timeout of a statement, seconds. A statement that takes longer hangs."""

CLOSE_SECONDS = 5.0
"""Seconds in which a server-side cursor is closed."""

LOCK_SECONDS = 2.0
"""Seconds that a migration waits for the lock of a table. Who needs the table meanwhile waits behind it."""

_PAUSE = 3.0  # seconds in which others go on before a migration is tried again

# The advisory lock of migrations: one process migrates, the others wait. It must never change.
_MIGRATION_LOCK = 0x4845_4152

_KEEPALIVES = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
_SESSION = """
select set_config('statement_timeout', %s, false), set_config('tcp_keepalives_idle', '10', false),
    set_config('tcp_keepalives_interval', '5', false), set_config('tcp_keepalives_count', '3', false),
    set_config('tcp_user_timeout', '30000', false), set_config('hearken.actor', 'service', false)
"""


def conninfo(url: str) -> str:
    """Returns the connection string of `url` with keepalives, unless `url` sets them itself."""
    return make_conninfo("", **{**_KEEPALIVES, **conninfo_to_dict(url)})


def connect(
    url: str, *, timeout: int = 10, statement_timeout: float = MAX_STATEMENT_SECONDS
) -> Connection[DictRow]:
    """Returns a new connection in autocommit mode. `timeout` limits connecting, `statement_timeout` each
    statement (0: no limit), both in seconds. Raises psycopg.OperationalError."""
    connection = psycopg.connect(
        conninfo(url), autocommit=True, row_factory=dict_row, connect_timeout=timeout
    )
    try:
        connection.execute(_SESSION, [_milliseconds(statement_timeout)])
    except psycopg.Error:
        connection.close()
        raise
    return connection


async def connect_async(url: str) -> AsyncConnection[DictRow]:
    """Returns a new connection of the same kind for an event loop, with the default timeouts. Raises
    psycopg.OperationalError."""
    connection = await AsyncConnection.connect(conninfo(url), autocommit=True, row_factory=dict_row)
    try:
        await connection.execute(_SESSION, [_milliseconds(MAX_STATEMENT_SECONDS)])
    except psycopg.Error:
        await connection.close()
        raise
    return connection


@asynccontextmanager
async def server_cursor(
    connection: AsyncConnection[DictRow], name: str, at_once: int
) -> AsyncGenerator[AsyncServerCursor[DictRow]]:
    """Yields a server-side cursor that reads `at_once` rows at a time. It is closed also where its task is
    cancelled, which would else cost the connection."""
    cursor = connection.cursor(name=name)
    cursor.itersize = at_once
    try:
        yield cursor
    finally:
        with anyio.move_on_after(CLOSE_SECONDS, shield=True):
            await cursor.close()


def open_async_pool(
    url: str, *, size: int = 8, statement_timeout: float = MAX_STATEMENT_SECONDS
) -> AsyncPool:
    """Returns a pool for an event loop; open it with `async with`. `statement_timeout` is in seconds."""

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
    if now - getattr(connection, "checked_at", -CHECK_INTERVAL) >= CHECK_INTERVAL:
        await AsyncConnectionPool.check_connection(connection)
        connection.checked_at = now  # type: ignore[attr-defined]


def open_pool(url: str, *, size: int = 4) -> Pool:
    """Returns a pool for threads; open it with `with`."""

    def configure(connection: Connection[DictRow]) -> None:
        connection.execute(_SESSION, [_milliseconds(MAX_STATEMENT_SECONDS)])
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


async def set_actor(connection: AsyncConnection[DictRow], actor: str) -> None:
    """Names who makes the changes of this transaction, for the audit log; else the service does."""
    await connection.execute("select set_config('hearken.actor', %s, true)", [actor])


async def next_transaction(connection: AsyncConnection[DictRow]) -> None:
    """Commits, and begins another transaction of the same actor."""
    row = await (
        await connection.execute("select current_setting('hearken.actor', true) as actor")
    ).fetchone()
    await connection.commit()
    await set_actor(connection, str(row["actor"]) if row else "")


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f}"


def database_away(error: psycopg.OperationalError) -> str:
    """Returns one line that says what is wrong, and what its reader can do."""
    first = (str(error).splitlines() or ["no reason given"])[0].rstrip(".")
    return f"The database does not answer: {first}. Start it, or correct HEARKEN_DATABASE_URL."


def migrations() -> list[tuple[int, Path]]:
    """Returns the numbered migrations in order: `0001_the_loop.sql` is number 1."""
    return sorted((int(path.name.split("_")[0]), path) for path in SQL.glob("[0-9]*_*.sql"))


def migrate(url: str) -> int:
    """Bring the database up to this code's schema, under a lock; returns its version. While a table that a
    migration changes is in use, as by a backup, it waits and lets others go on.

    Raises StartError when the database is newer than this code, which must not start on it.
    """
    while True:
        try:
            return _migrate(url)
        except psycopg.errors.LockNotAvailable:
            log.warning("migration_waits", reason="a table that it changes is in use")
            time.sleep(_PAUSE)


def _migrate(url: str) -> int:
    """Raises LockNotAvailable, and then has changed nothing."""
    known = migrations()
    newest = known[-1][0]
    with connect(url, statement_timeout=0) as connection, connection.transaction():
        connection.execute("select pg_advisory_xact_lock(%s)", [_MIGRATION_LOCK])
        connection.execute("select set_config('lock_timeout', %s, true)", [_milliseconds(LOCK_SECONDS)])
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
        _adopt_cluster(connection)
    return newest


def _adopt_cluster(connection: Connection[DictRow]) -> None:
    """After a restore into another cluster, where transaction ids start again: give the rows of the outbox
    ids of this cluster, and let consumers of the Postgres log read them again, which has no effect twice. New
    votes belong to a new epoch."""
    here = connection.execute("select system_identifier::text from pg_control_system()").fetchone()
    known = connection.execute("select system_identifier from cluster").fetchone()
    assert here is not None  # noqa: S101  (a cluster has its identifier)
    if here == known:
        return
    if known is None:
        connection.execute("insert into cluster (system_identifier) values (%(system_identifier)s)", here)
        return
    connection.execute("update outbox set xid = pg_current_xact_id()")
    connection.execute("delete from consumer_offsets where log = 'postgres'")
    connection.execute("update erasures set xid = pg_current_xact_id() where done_at is null")
    change = "update cluster set system_identifier = %(system_identifier)s, epoch = epoch + 1 returning epoch"
    found = connection.execute(change, here).fetchone()
    epoch = sql.Literal(found["epoch"] if found else 0)
    connection.execute(sql.SQL("alter table feedback alter column epoch set default {}").format(epoch))
