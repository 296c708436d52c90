"""API keys are stored as SHA-256 hashes, looked up through a cache (`serving.key_cache`), and created at the
first start.

Keys are long and random, so a slow password hash would only slow requests. The publishable key is also stored
in the clear, as the page at `/` shows it to every browser. The signing secret is here too. What is done with
keys by the API is in `serving.tenants.keys`.
"""

import hashlib
import secrets
from dataclasses import dataclass, field
from datetime import datetime

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from schemas.database import AsyncPool
from schemas.errors import StartError
from schemas.keys import KIND_ROLES, Kind, Quotas, Role
from schemas.settings import Settings

MIN_KEY_LENGTH = 16
"""The fewest characters of a key, for its plain hash not to be guessed."""


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
