"""The keys of an installation, and its one secret. Keys are kept as sha256: they are random and long, so
a slow hash would only slow requests. The publishable key is also kept in the clear, as the page at `/`
shows it to every browser anyway.
"""

import hashlib
import secrets
from dataclasses import dataclass

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from schemas.database import AsyncPool
from schemas.errors import StartError
from schemas.settings import Settings

SHORTEST_KEY = 16


@dataclass(frozen=True, slots=True)
class NewKeys:
    """Keys in the clear, to be shown once."""

    admin: str
    publishable: str


def key_hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


async def ensure_keys(pool: AsyncPool, settings: Settings) -> NewKeys | None:
    """Make sure that the project has its admin and its publishable key.

    Keys named in the settings replace those of an earlier start. Returns both only when they are new.
    Raises StartError for a key too short to be kept as a plain hash.
    """
    for name, key in (("admin_key", settings.admin_key), ("public_key", settings.public_key)):
        if key is not None and len(key) < SHORTEST_KEY:
            raise StartError(f"{name} has {len(key)} characters; use at least {SHORTEST_KEY} random ones.")
    async with pool.connection() as connection, connection.transaction():
        await connection.execute("select from projects where id = %s for update", [settings.project])
        admin = await _ensure(connection, settings.project, "admin", settings.admin_key)
        publishable = await _ensure(connection, settings.project, "publishable", settings.public_key)
        if publishable is not None:
            await connection.execute(
                "insert into secrets (name, value) values ('publishable', %s)"
                " on conflict (name) do update set value = excluded.value",
                [publishable.encode()],
            )
    return NewKeys(admin, publishable) if admin and publishable else None


async def _ensure(
    connection: AsyncConnection[DictRow], project: str, kind: str, wanted: str | None
) -> str | None:
    """The key in the clear when this call created it, else None."""
    name = f"{project}-{kind}"
    cursor = await connection.execute("select hash from keys where id = %s", [name])
    row = await cursor.fetchone()
    if row is not None and (wanted is None or bytes(row["hash"]) == key_hash(wanted)):
        return None
    prefix = "sk" if kind == "admin" else "pk"
    key = wanted or f"{prefix}-hearken-{secrets.token_urlsafe(24)}"
    await connection.execute(
        "insert into keys (id, project, kind, hash) values (%s, %s, %s, %s)"
        " on conflict (id) do update set hash = excluded.hash",
        [name, project, kind, key_hash(key)],
    )
    return key


async def publishable_key(connection: AsyncConnection[DictRow]) -> str | None:
    """The key that the page at `/` uses."""
    cursor = await connection.execute("select value from secrets where name = 'publishable'")
    row = await cursor.fetchone()
    return bytes(row["value"]).decode() if row else None


async def ensure_seal(connection: AsyncConnection[DictRow]) -> bytes:
    """The secret that signs feedback tokens and hashes users, made at the first start."""
    await connection.execute(
        "insert into secrets (name, value) values ('seal', %s) on conflict (name) do nothing",
        [secrets.token_bytes(32)],
    )
    cursor = await connection.execute("select value from secrets where name = 'seal'")
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - inserted above
    return bytes(row["value"])
