"""API keys are stored as SHA-256 hashes, looked up through a cache, and created at the first start.

Keys are long and random, so a slow password hash would only slow requests. The publishable key is also stored
in the clear, as the page at `/` shows it to every browser. The signing secret is here too. What is done with
keys by the API is in `serving.tenants.keys`.
"""

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from psycopg_pool import PoolTimeout

from schemas.database import AsyncPool
from schemas.errors import StartError, Unauthorized
from schemas.keys import KIND_ROLES, Kind, Quotas, Role
from schemas.settings import Settings

T = TypeVar("T")

MIN_KEY_LENGTH = 16
"""The fewest characters of a key, for its plain hash not to be guessed."""

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


@dataclass(frozen=True, slots=True)
class Caller:
    """The owner of a request's key, which is valid until `expires_at`. `key_id` may be logged; `roles` is
    None for those of its kind; `origins` are the pages that may use the key, none: any."""

    key_id: str
    project: str
    kind: Kind
    roles: frozenset[Role] | None = None
    origins: tuple[str, ...] = ()
    quotas: Quotas = field(default_factory=Quotas)
    expires_at: datetime | None = None

    def may(self, role: Role) -> bool:
        return role in (KIND_ROLES[self.kind] if self.roles is None else self.roles)

    def identity(self) -> dict[str, str]:
        """Returns whom a vote is from, as the spool keeps it."""
        return {"key_id": self.key_id, "project": self.project, "kind": self.kind}


@dataclass(frozen=True, slots=True)
class NewKeys:
    """Keys in the clear, to be shown once; None for one that is not new, or that the settings name."""

    admin: str | None
    secret: str | None
    publishable: str | None


class KeyCache:
    """Looks up callers by key and caches them for `ttl` seconds. The database announces changed keys
    (`forget`), so a revocation ends a key at once, and after `ttl` where the announcement was missed. While
    the database is away, a key that was valid stays so."""

    def __init__(self, pool: AsyncPool, *, ttl: float = 10) -> None:
        self._pool = pool
        self._ttl = ttl
        self._callers: dict[bytes, tuple[float, Caller]] = {}  # key hash -> (expires at, caller)
        self._valid_ids: dict[str, float] = {}  # key id -> expires at
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
            self._valid_ids = dict.fromkeys(self._valid_ids, 0.0)
        else:
            self._valid_ids.pop(key_id, None)

    async def is_valid(self, key_id: str) -> bool:
        """Returns whether the key of this id, which vouched for somebody, has not expired or been revoked
        since; cached as callers are."""
        if time.monotonic() < self._valid_ids.get(key_id, 0):
            return True
        changes = self._changes
        try:
            valid: bool = await self._once(key_id, partial(self._is_live, key_id))
        except (psycopg.OperationalError, PoolTimeout):
            if key_id not in self._valid_ids:
                raise
            return True
        if not valid:
            self._valid_ids.pop(key_id, None)
        elif changes == self._changes:
            self._valid_ids[key_id] = time.monotonic() + self._ttl
        return valid

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

    async def _is_live(self, key_id: str) -> bool:
        async with self._pool.connection(timeout=_PATIENCE) as connection:
            cursor = await connection.execute(
                "select 1 from keys where id = %s and revoked_at is null"
                " and coalesce(expires_at > now(), true)",
                [key_id],
            )
            return await cursor.fetchone() is not None

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


def key_hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


async def ensure_keys(pool: AsyncPool, settings: Settings) -> NewKeys:
    """Creates the project's admin key and publishable key where they are missing, and the project; a project
    whose first admin key is made here gets a secret key for its servers, too.

    Keys named in the settings replace the stored ones, revoked ones too. Returns the keys that were made up.
    Raises StartError for a key that is too short for a plain hash.
    """
    for name, key in (("admin_key", settings.admin_key), ("public_key", settings.public_key)):
        if key is not None and len(key) < MIN_KEY_LENGTH:
            raise StartError(f"{name} has {len(key)} characters; use at least {MIN_KEY_LENGTH} random ones.")
    async with pool.connection() as connection, connection.transaction():
        await connection.execute(
            "insert into projects (id) values (%s) on conflict do nothing", [settings.project]
        )
        await connection.execute("select from projects where id = %s for update", [settings.project])
        admin = await _ensure_key(connection, settings.project, "admin", settings.admin_key)
        publishable = await _ensure_key(connection, settings.project, "publishable", settings.public_key)
        made = admin is not None and settings.admin_key is None
        secret = await _ensure_key(connection, settings.project, "secret", None) if made else None
        if publishable is not None:
            await keep_page_key(connection, settings.project, publishable)
    return NewKeys(
        None if settings.admin_key else admin, secret, None if settings.public_key else publishable
    )


async def renew_keys(connection: AsyncConnection[DictRow], settings: Settings) -> NewKeys:
    """Replaces the project's admin key, secret key and publishable key, for those that were lost; the old
    ones end within seconds. Raises StartError where the settings name a key: it would come back."""
    for name, key in (("admin_key", settings.admin_key), ("public_key", settings.public_key)):
        if key is not None:
            raise StartError(
                f"{name} comes from the settings (HEARKEN_{name.upper()}): change it there, and restart"
                " serving."
            )
    await connection.execute(
        "insert into projects (id) values (%s) on conflict do nothing", [settings.project]
    )
    return await make_keys(connection, settings.project)


async def make_keys(connection: AsyncConnection[DictRow], project: str) -> NewKeys:
    """Makes the three keys that a project begins with, or replaces them."""
    admin, secret, publishable = [new_secret(kind) for kind in ("admin", "secret", "publishable")]
    await _ensure_key(connection, project, "admin", admin)
    await _ensure_key(connection, project, "secret", secret)
    await _ensure_key(connection, project, "publishable", publishable)
    await keep_page_key(connection, project, publishable)
    return NewKeys(admin, secret, publishable)


def new_secret(kind: str) -> str:
    """Returns a new random key in the clear."""
    return f"{'pk' if kind == 'publishable' else 'sk'}-hearken-{secrets.token_urlsafe(24)}"


async def _ensure_key(
    connection: AsyncConnection[DictRow], project: str, kind: Kind, configured: str | None
) -> str | None:
    """Returns the key in the clear when this call created it, else None."""
    name = first_key(project, kind)
    cursor = await connection.execute("select hash from keys where id = %s", [name])
    row = await cursor.fetchone()
    if row is not None and (configured is None or bytes(row["hash"]) == key_hash(configured)):
        return None
    key = configured or new_secret(kind)
    await connection.execute(
        "insert into keys (id, project, kind, hash) values (%s, %s, %s, %s) on conflict (id) do update"
        " set hash = excluded.hash, revoked_at = null, expires_at = null, previous_hash = null,"
        " previous_expires_at = null",
        [name, project, kind, key_hash(key)],
    )
    return key


def first_key(project: str, kind: Kind) -> str:
    """Returns the id of the key of this kind that a project begins with."""
    return f"{project}-{kind}"


async def keep_page_key(connection: AsyncConnection[DictRow], project: str, key: str | None) -> None:
    """Keeps in the clear which key the project's page at `/` uses; None: none."""
    if key is None:
        await connection.execute("delete from secrets where name = %s", [_page_key(project)])
        return
    await connection.execute(
        "insert into secrets (name, value) values (%s, %s)"
        " on conflict (name) do update set value = excluded.value",
        [_page_key(project), key.encode()],
    )


def _page_key(project: str) -> str:
    return f"publishable:{project}"


async def publishable_key(connection: AsyncConnection[DictRow], project: str) -> str | None:
    """Returns the key that the project's page at `/` uses."""
    cursor = await connection.execute("select value from secrets where name = %s", [_page_key(project)])
    row = await cursor.fetchone()
    return bytes(row["value"]).decode() if row else None


async def ensure_signing_secret(connection: AsyncConnection[DictRow]) -> bytes:
    """Returns the secret of the TokenSigner, which the first start creates."""
    await connection.execute(
        "insert into secrets (name, value) values ('seal', %s) on conflict (name) do nothing",
        [secrets.token_bytes(32)],
    )
    cursor = await connection.execute("select value from secrets where name = 'seal'")
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - inserted above
    return bytes(row["value"])
