"""The cache of API keys, which a process looks up in the database and forgets when they change."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from functools import partial
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg_pool import PoolTimeout

from schemas.database import AsyncPool
from schemas.errors import Unauthorized
from schemas.keys import Kind, Quotas
from serving.keys import Caller, key_hash

T = TypeVar("T")

_PATIENCE = 2.0  # seconds to look a known key up again, after which the database counts as away

# A key's secret is valid, and for a while so is the one before its rotation.
_BY_HASH: LiteralString = """
select id, project, kind, roles, origins, quotas, least(expires_at, ends) as expires_at from (
    select *, expires_at as ends from keys where hash = %(hash)s
    union all
    select *, previous_expires_at from keys where previous_hash = %(hash)s and previous_expires_at > now()
) as found
where revoked_at is null and coalesce(least(expires_at, ends) > now(), true)
"""


class KeyCache:
    """Looks up callers by key and caches them for `ttl` seconds. The database announces changed keys
    (`forget`), so a revocation ends a key at once, and after `ttl` where the announcement was missed. While
    the database is away, a key that was valid stays so."""

    def __init__(self, pool: AsyncPool, *, ttl: float = 10) -> None:
        self._pool = pool
        self._ttl = ttl
        self._callers: dict[bytes, tuple[float, Caller]] = {}  # key hash -> (expires at, caller)
        self._kinds: dict[str, tuple[float, Kind]] = {}  # key id -> (expires at, kind)
        self._queries: dict[bytes | str, asyncio.Task[Any]] = {}  # that run now
        self._changes = 0  # announced so far: what was read before one is not cached

    def contains(self, key: str) -> bool:
        """Returns whether this process has found the key valid, and not revoked since."""
        return key_hash(key) in self._callers

    async def caller(self, key: str) -> Caller:
        """Returns the owner of the key. Raises Unauthorized for a key that is unknown, expired or revoked."""
        digest = key_hash(key)
        cached = self._callers.get(digest)
        if cached is not None and time.monotonic() < cached[0] and not _is_past(cached[1].expires_at):
            return cached[1]
        changes = self._changes
        try:
            async with asyncio.timeout(None if cached is None else _PATIENCE):
                caller = await self._once(digest, partial(self._look_up, digest))
        except (psycopg.OperationalError, PoolTimeout, TimeoutError):
            if cached is None:
                raise
            caller = cached[1]
        if caller is None or _is_past(caller.expires_at):
            self._callers.pop(digest, None)
            raise Unauthorized(
                "This key is unknown or was revoked, or has expired. `hearken keys renew` makes new ones, if"
                " they were lost."
            )
        if changes == self._changes:
            self._callers[digest] = (time.monotonic() + self._ttl, caller)
        return caller

    def forget(self, key_id: str | None) -> None:
        """Looks the key of this id up again at its next use; without an id, each key."""
        self._changes += 1
        self._queries = {}  # they may have read what was before
        for digest, (_, caller) in list(self._callers.items()):
            if key_id is None:
                self._callers[digest] = (0.0, caller)
            elif key_id == caller.key_id:
                del self._callers[digest]
        if key_id is None:
            self._kinds = {known: (0.0, kind) for known, (_, kind) in self._kinds.items()}
        else:
            self._kinds.pop(key_id, None)

    async def kind_of(self, key_id: str) -> Kind | None:
        """Returns the kind of the key of this id, which vouched for somebody; None where it has expired or
        been revoked since. Cached as callers are."""
        cached = self._kinds.get(key_id)
        if cached is not None and time.monotonic() < cached[0]:
            return cached[1]
        changes = self._changes
        try:
            kind: Kind | None = await self._once(key_id, partial(self._kind_of, key_id))
        except (psycopg.OperationalError, PoolTimeout):
            if cached is None:
                raise
            return cached[1]
        if kind is None:
            self._kinds.pop(key_id, None)
        elif changes == self._changes:
            self._kinds[key_id] = time.monotonic() + self._ttl, kind
        return kind

    async def _once(self, name: bytes | str, query: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Returns what `query` finds; it runs once for all who ask for the same at once, as the websockets of
        a changed key do."""
        task = self._queries.get(name)
        if task is None:
            task = self._queries[name] = asyncio.create_task(query())
            task.add_done_callback(lambda done: self._forget_query(name, done))
        found: T = await asyncio.shield(task)
        return found

    def _forget_query(self, name: bytes | str, done: asyncio.Task[Any]) -> None:
        if self._queries.get(name) is done:
            del self._queries[name]

    async def _kind_of(self, key_id: str) -> Kind | None:
        async with self._pool.connection(timeout=_PATIENCE) as connection:
            cursor = await connection.execute(
                "select kind from keys where id = %s and revoked_at is null"
                " and coalesce(expires_at > now(), true)",
                [key_id],
            )
            row = await cursor.fetchone()
            return None if row is None else row["kind"]

    async def _look_up(self, digest: bytes) -> Caller | None:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_BY_HASH, {"hash": digest})
            row = await cursor.fetchone()
        if row is None:
            return None
        return Caller(
            key_id=row["id"],
            project=row["project"],
            kind=row["kind"],
            roles=None if row["roles"] is None else frozenset(row["roles"]),
            origins=tuple(row["origins"]),
            quotas=Quotas.model_validate(row["quotas"]),
            expires_at=row["expires_at"],
        )


def _is_past(moment: datetime | None) -> bool:
    return moment is not None and moment <= datetime.now(UTC)
