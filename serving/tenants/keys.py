"""`/v1/keys`: an admin of a project creates its keys, changes, rotates and revokes them.

A rotation keeps the key (its id, sessions, quotas and usage) and gives it a new secret; the one before stays
valid for a while, so that both are live until every server has the new one. A secret is shown once.
"""

import secrets
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

from fastapi import APIRouter, Request
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb
from pydantic import TypeAdapter

from schemas.errors import Conflict, InvalidRequest, NotFound
from schemas.keys import KIND_ROLES, KeyChange, Kind, NewKey, Rotation
from schemas.settings import Settings
from schemas.wire import check, decode
from serving.admin import with_times
from serving.auth import Admin, acting
from serving.keys import first_key, keep_page_key, key_hash, new_secret
from serving.openapi import request_body
from serving.services import services

MOST_KEYS = 1_000
"""Keys of a project that are not revoked; as many are listed, revoked ones last."""

LATEST_EXPIRY = datetime(9999, 12, 30, tzinfo=UTC)
"""The last day of a year of four digits in every time zone, as the database's may be any."""

router = APIRouter(prefix="/v1/keys")

Connection = AsyncConnection[DictRow]

_NEW_KEY, _CHANGE, _ROTATION = TypeAdapter(NewKey), TypeAdapter(KeyChange), TypeAdapter(Rotation)
_COLUMNS: LiteralString = """
select id, name, kind, roles, origins, quotas, created_at, expires_at, revoked_at, previous_expires_at
from keys where project = %s
"""


async def keys(connection: Connection, project: str) -> list[dict[str, Any]]:
    """Returns the keys of a project, without their secrets: the live ones first, the oldest first."""
    cursor = await connection.execute(
        _COLUMNS + " order by revoked_at is not null, created_at, id limit %s", [project, MOST_KEYS]
    )
    return [_shown(row) for row in await cursor.fetchall()]


async def key(connection: Connection, project: str, id: str) -> dict[str, Any]:
    """Returns a key of a project, without its secret. Raises NotFound."""
    row = await (await connection.execute(_COLUMNS + " and id = %s", [project, id])).fetchone()
    if row is None:
        raise NotFound(f"There is no key {id[:64]}.", code="key_not_found")
    return _shown(row)


async def create(connection: Connection, project: str, new: NewKey) -> dict[str, Any]:
    """Creates a key; returns it with its secret. Raises Conflict where the project has MOST_KEYS,
    InvalidRequest for an expiry that is past."""
    _check_expiry(new.expires_at)
    await connection.execute("select from projects where id = %s for no key update", [project])
    cursor = await connection.execute(
        "select count(*) as live from keys where project = %s and revoked_at is null", [project]
    )
    counted = await cursor.fetchone()
    if counted is not None and counted["live"] >= MOST_KEYS:
        raise Conflict(f"There are {MOST_KEYS} keys; revoke one first.", code="too_many_keys")
    id, secret = f"key_{secrets.token_hex(8)}", new_secret(new.kind)
    await connection.execute(
        "insert into keys (id, project, kind, hash, name, roles, origins, quotas, expires_at)"
        " values (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
        [id, project, new.kind, key_hash(secret), new.name, new.granted, new.origins,
         Jsonb(new.quotas.model_dump(exclude_defaults=True)), new.expires_at],
    )  # fmt: skip
    return {**await key(connection, project, id), "key": secret}


async def change(connection: Connection, project: str, id: str, said: KeyChange) -> dict[str, Any]:
    """Changes what is given of a key; returns it. Raises NotFound, Conflict for a revoked key, InvalidRequest
    for origins of a secret key or an expiry that is past."""
    found = await _live(connection, project, id)
    if said.origins and found["kind"] != "publishable":
        raise InvalidRequest(
            "Origins are of publishable keys: a page never has another one.", param="origins"
        )
    _check_expiry(said.expires_at)
    values = {
        "name": said.name,
        "origins": said.origins,
        "quotas": Jsonb(said.quotas.model_dump(exclude_defaults=True)),
        "expires_at": said.expires_at,
    }
    given = {name: value for name, value in values.items() if name in said.model_fields_set}
    await connection.execute(
        "update keys set name = case when %(names)s ? 'name' then %(name)s else name end,"
        " origins = case when %(names)s ? 'origins' then %(origins)s else origins end,"
        " quotas = case when %(names)s ? 'quotas' then %(quotas)s else quotas end,"
        " expires_at = case when %(names)s ? 'expires_at' then %(expires_at)s else expires_at end"
        " where project = %(project)s and id = %(id)s",
        {**values, "names": Jsonb(list(given)), "project": project, "id": id},
    )
    return await key(connection, project, id)


async def rotate(
    connection: Connection, project: str, id: str, overlap: int, settings: Settings
) -> dict[str, Any]:
    """Gives a key a new secret; the one before is valid for `overlap` seconds more. Returns it with the new
    one. Raises NotFound, Conflict for a revoked key or one whose secret the settings name."""
    found = await _live(connection, project, id)
    _check_not_in_settings(settings, project, id)
    secret = new_secret(found["kind"])
    await connection.execute(
        "update keys set hash = %s, previous_hash = case when %s > 0 then hash end, previous_expires_at ="
        " case when %s > 0 then now() + %s end where project = %s and id = %s",
        [key_hash(secret), overlap, overlap, timedelta(seconds=overlap), project, id],
    )
    if id == first_key(project, "publishable"):
        await keep_page_key(connection, project, secret)
    return {**await key(connection, project, id), "key": secret}


async def revoke(connection: Connection, project: str, id: str) -> dict[str, Any]:
    """Ends a key for good; every replica refuses it within seconds. Raises NotFound, and Conflict for the
    project's last admin key, without which nobody could make another."""
    found = await key(connection, project, id)
    await connection.execute("select from projects where id = %s for no key update", [project])
    cursor = await connection.execute(
        "select 1 from keys where project = %s and kind = 'admin' and revoked_at is null"
        " and coalesce(expires_at > now(), true) and id <> %s limit 1",
        [project, id],
    )
    if found["kind"] == "admin" and await cursor.fetchone() is None:
        raise Conflict("It is the last admin key; create another one first.", code="last_admin_key")
    await connection.execute(
        "update keys set revoked_at = coalesce(revoked_at, now()) where project = %s and id = %s",
        [project, id],
    )
    if id == first_key(project, "publishable"):
        await keep_page_key(connection, project, None)
    return await key(connection, project, id)


async def _live(connection: Connection, project: str, id: str) -> dict[str, Any]:
    """Returns a key that is not revoked, locked until the transaction ends."""
    await connection.execute(
        "select from keys where project = %s and id = %s for no key update", [project, id]
    )
    found = await key(connection, project, id)
    if found["revoked_at"] is not None:
        raise Conflict(f"{id} was revoked; create another key.", code="key_revoked")
    return found


def _check_expiry(moment: datetime | None) -> None:
    if moment is not None and moment <= datetime.now(UTC):
        raise InvalidRequest("expires_at is past; `revoke` ends a key at once.", param="expires_at")
    if moment is not None and moment > LATEST_EXPIRY:
        raise InvalidRequest("expires_at is too late; a key without it never expires.", param="expires_at")


def _check_not_in_settings(settings: Settings, project: str, id: str) -> None:
    """Raises Conflict for a key of the settings: at its next start, a process would bring it back."""
    named: tuple[tuple[Kind, str, str | None], ...] = (
        ("admin", "admin_key", settings.admin_key),
        ("publishable", "public_key", settings.public_key),
    )
    for kind, name, value in named:
        if value is not None and project == settings.project and id == first_key(project, kind):
            raise Conflict(
                f"This key comes from the settings (HEARKEN_{name.upper()}): change it there, and restart"
                " serving.",
                code="key_in_settings",
            )


def _shown(row: DictRow) -> dict[str, Any]:
    return with_times({**row, "roles": sorted(row["roles"] or KIND_ROLES[row["kind"]])})


@router.get("")
async def list_keys(request: Request, caller: Admin) -> dict[str, Any]:
    async with services(request).pool.connection() as connection:
        return {"object": "list", "data": await keys(connection, caller.project)}


@router.post("", status_code=201, openapi_extra=request_body("/v1/keys", NewKey))
async def create_key(request: Request, caller: Admin) -> dict[str, Any]:
    """Creates a key. Its secret, `key`, is in this answer only."""
    new = check(_NEW_KEY, decode(await request.body()))
    async with acting(request, caller) as connection:
        return await create(connection, caller.project, new)


@router.get("/{id}")
async def one_key(request: Request, id: str, caller: Admin) -> dict[str, Any]:
    async with services(request).pool.connection() as connection:
        return await key(connection, caller.project, id)


@router.patch("/{id}", openapi_extra=request_body("/v1/keys/{id}", KeyChange, method="patch"))
async def change_key(request: Request, id: str, caller: Admin) -> dict[str, Any]:
    """Changes name, origins, quotas or expiry: those that the body names."""
    said = check(_CHANGE, decode(await request.body()))
    async with acting(request, caller) as connection:
        return await change(connection, caller.project, id, said)


@router.post("/{id}/rotate", openapi_extra=request_body("/v1/keys/{id}/rotate", Rotation, required=False))
async def rotate_key(request: Request, id: str, caller: Admin) -> dict[str, Any]:
    """Gives the key a new secret. For a day, or `overlap_seconds`, the one before is valid too."""
    body = await request.body()
    overlap = (check(_ROTATION, decode(body)) if body else Rotation()).overlap_seconds
    async with acting(request, caller) as connection:
        return await rotate(connection, caller.project, id, overlap, services(request).settings)


@router.post("/{id}/revoke")
async def revoke_key(request: Request, id: str, caller: Admin) -> dict[str, Any]:
    async with acting(request, caller) as connection:
        return await revoke(connection, caller.project, id)
