"""API keys are stored as SHA-256 hashes, looked up through a cache, and created at the first start.

Keys are long and random, so a slow password hash would only slow requests. The publishable key is also stored
in the clear, as the page at `/` shows it to every browser. The signing secret is here too.
"""

import asyncio
import hashlib
import secrets
import time
from dataclasses import dataclass
from typing import Literal, cast

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from psycopg_pool import PoolTimeout

from schemas.database import AsyncPool
from schemas.errors import StartError, Unauthorized
from schemas.settings import Settings

MIN_KEY_LENGTH = 16
"""The fewest characters of a key, for its plain hash not to be guessed."""

_PATIENCE = 2.0  # seconds to look a known key up again, after which the database counts as away

Kind = Literal["admin", "secret", "publishable"]


@dataclass(frozen=True, slots=True)
class Caller:
    """The owner of a request's key. `key_id` may be logged."""

    key_id: str
    project: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class NewKeys:
    """Keys in the clear, to be shown once."""

    admin: str
    publishable: str


class KeyCache:
    """Looks up callers by key and caches them for `ttl` seconds, after which a revoked key is refused. While
    the database is away, a key that was valid stays so."""

    def __init__(self, pool: AsyncPool, *, ttl: float = 10) -> None:
        self._pool = pool
        self._ttl = ttl
        self._callers: dict[bytes, tuple[float, Caller]] = {}  # key hash -> (expires at, caller)
        self._valid_ids: dict[str, float] = {}  # key id -> expires at

    def contains(self, key: str) -> bool:
        """Returns whether this process has found the key valid, and not revoked since."""
        return key_hash(key) in self._callers

    async def caller(self, key: str) -> Caller:
        """Returns the owner of the key. Raises Unauthorized for a key that is unknown or revoked."""
        digest = key_hash(key)
        cached = self._callers.get(digest)
        if cached is not None and time.monotonic() < cached[0]:
            return cached[1]
        try:
            async with asyncio.timeout(None if cached is None else _PATIENCE):
                caller = await self._look_up(digest)
        except (psycopg.OperationalError, PoolTimeout, TimeoutError):
            if cached is None:
                raise
            caller = cached[1]
        if caller is None:
            self._callers.pop(digest, None)
            raise Unauthorized(
                "This key is unknown or was revoked. `hearken keys renew` makes new ones, if they were lost."
            )
        self._callers[digest] = (time.monotonic() + self._ttl, caller)
        return caller

    async def is_valid(self, key_id: str) -> bool:
        """Returns whether the key of this id, which vouched for somebody, has not been revoked since; cached
        as callers are."""
        if time.monotonic() < self._valid_ids.get(key_id, 0):
            return True
        try:
            async with self._pool.connection(timeout=_PATIENCE) as connection:
                cursor = await connection.execute(
                    "select 1 from keys where id = %s and revoked_at is null", [key_id]
                )
                valid = await cursor.fetchone() is not None
        except (psycopg.OperationalError, PoolTimeout):
            if key_id not in self._valid_ids:
                raise
            return True
        if valid:
            self._valid_ids[key_id] = time.monotonic() + self._ttl
        else:
            self._valid_ids.pop(key_id, None)
        return valid

    async def _look_up(self, digest: bytes) -> Caller | None:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "select id, project, kind from keys where hash = %s and revoked_at is null", [digest]
            )
            row = await cursor.fetchone()
        return Caller(row["id"], row["project"], cast(Kind, row["kind"])) if row else None


def key_hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


async def ensure_keys(pool: AsyncPool, settings: Settings) -> NewKeys | None:
    """Creates the project's admin key and publishable key where they are missing, and the project.

    Keys named in the settings replace the stored ones, revoked ones too. Returns both keys only when both are
    new. Raises
    StartError for a key that is too short for a plain hash.
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
        if publishable is not None:
            await connection.execute(
                "insert into secrets (name, value) values (%s, %s)"
                " on conflict (name) do update set value = excluded.value",
                [_page_key(settings.project), publishable.encode()],
            )
    return NewKeys(admin, publishable) if admin and publishable else None


async def renew_keys(pool: AsyncPool, settings: Settings) -> NewKeys | None:
    """Replaces the project's admin key and publishable key, for those that were lost; the old ones end within
    seconds. Raises StartError where the settings name a key: it would come back."""
    for name, key in (("admin_key", settings.admin_key), ("public_key", settings.public_key)):
        if key is not None:
            raise StartError(
                f"{name} comes from the settings (HEARKEN_{name.upper()}): change it there, and restart"
                " serving."
            )
    new = {"admin_key": _new_key("admin"), "public_key": _new_key("publishable")}
    return await ensure_keys(pool, settings.model_copy(update=new))


def _new_key(kind: str) -> str:
    return f"{'sk' if kind == 'admin' else 'pk'}-hearken-{secrets.token_urlsafe(24)}"


async def _ensure_key(
    connection: AsyncConnection[DictRow], project: str, kind: str, configured: str | None
) -> str | None:
    """Returns the key in the clear when this call created it, else None."""
    name = f"{project}-{kind}"
    cursor = await connection.execute("select hash from keys where id = %s", [name])
    row = await cursor.fetchone()
    if row is not None and (configured is None or bytes(row["hash"]) == key_hash(configured)):
        return None
    key = configured or _new_key(kind)
    await connection.execute(
        "insert into keys (id, project, kind, hash) values (%s, %s, %s, %s)"
        " on conflict (id) do update set hash = excluded.hash, revoked_at = null",
        [name, project, kind, key_hash(key)],
    )
    return key


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
