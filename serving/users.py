"""`/v1/users` shows what is held about a person, as a file to read, and erases it; `/v1/erasures` says how
far an erasure has come, and has its receipt.

A server's key names the person, by the name that it chats with or by a pseudonym as in the export. The holder
of a session asks for themself, as `me`: with a publishable key nobody else can be named. An erasure is read
by any key of its project: its id is random (96 bits), only who asked is told it, and after an erasure the
person is nobody who could say so. What it shows names them by a hash.
"""

import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from feedback import erasures, held_data, receipt
from schemas.database import set_actor
from schemas.errors import InvalidRequest, Unauthorized
from schemas.users import MAX_NAME
from serving.auth import SESSION_HEADER, Reader, actor_of, caller, require, visitor
from serving.downloads import Download
from serving.keys import Caller
from serving.services import Services, services

router = APIRouter()

VISITOR = "visitor"
"""Who asked, where a person erases themself or chooses for themself."""


async def eraser(found: Reader) -> Caller:
    """Returns a caller that may erase people, or choose for them: an operator's key, or a server's, which
    chats for them. Raises Forbidden for a key that only reads."""
    return require(found, "operate", "chat")


KnownCaller = Annotated[Caller, Depends(caller)]
Eraser = Annotated[Caller, Depends(eraser)]


@router.get("/v1/users/me", responses={200: {"content": {"application/json": {}}}})
async def show_me(request: Request, caller: KnownCaller) -> Download:
    """Returns all that is held about the holder of the session."""
    return _held_data(services(request), caller.project, [await holder(request, caller)])


@router.delete("/v1/users/me", status_code=202)
async def erase_me(request: Request, caller: KnownCaller) -> dict[str, Any]:
    """Erases the holder of the session."""
    return await _erase(request, caller, [await holder(request, caller)], VISITOR)


@router.get("/v1/users/{user:path}", responses={200: {"content": {"application/json": {}}}})
async def show_user(request: Request, user: str, caller: Reader) -> Download:
    """Returns all that is held about a person."""
    return _held_data(services(request), caller.project, pseudonyms(request, caller, user), user)


@router.delete("/v1/users/{user:path}", status_code=202)
async def erase_user(request: Request, user: str, caller: Eraser) -> dict[str, Any]:
    """Erases a person: their chats and votes at once, and what was learned from them by training again."""
    return await _erase(request, caller, pseudonyms(request, caller, user), caller.key_id, user)


@router.get("/v1/erasures")
async def list_erasures(
    request: Request, caller: Reader, limit: Annotated[int, Query(ge=1, le=200)] = 20
) -> dict[str, Any]:
    async with services(request).pool.connection() as connection:
        found = await erasures.newest(connection, caller.project, limit)
    return {"object": "list", "data": [erasures.shown(each) for each in found]}


@router.get("/v1/erasures/key")
async def receipt_key(request: Request, caller: KnownCaller) -> dict[str, str]:
    """Returns the public key by which receipts are checked."""
    async with services(request).pool.connection() as connection:
        return {"public_key": receipt.public_key(await receipt.signing_key(connection))}


@router.get("/v1/erasures/{id}")
async def show_erasure(request: Request, id: str, caller: KnownCaller) -> dict[str, Any]:
    """Returns how far an erasure has come, and its receipt once nothing is left."""
    if "\0" in id:
        raise InvalidRequest("An id contains no NUL character.", param="id")
    async with services(request).pool.connection() as connection:
        return erasures.shown(await erasures.find(connection, caller.project, id))


async def holder(request: Request, caller: Caller) -> str:
    """Returns the pseudonym of the session's holder. Raises Unauthorized."""
    found = await visitor(request, caller, request.headers.get(SESSION_HEADER))
    if found is None:
        raise Unauthorized(
            "Send your session as `Hearken-Session: …`; it says who you are.", code="missing_session"
        )
    return found.rater


def pseudonyms(request: Request, caller: Caller, user: str) -> list[str]:
    """Returns the pseudonyms of a user's name, or of a pseudonym itself. Raises InvalidRequest."""
    if not 0 < len(user) <= MAX_NAME or "\0" in user:
        raise InvalidRequest(f"A user's name has 1 to {MAX_NAME} characters.", param="user")
    return services(request).signer.pseudonyms(caller.project, user)


async def _erase(
    request: Request, caller: Caller, raters: list[str], asked_by: str, user: str | None = None
) -> dict[str, Any]:
    async with services(request).pool.connection() as connection, connection.transaction():
        await set_actor(connection, VISITOR if asked_by == VISITOR else actor_of(caller))
        id = await erasures.ask(connection, caller.project, raters, asked_by, user)
        return erasures.shown(await erasures.find(connection, caller.project, id))


def _held_data(services: Services, project: str, raters: list[str], user: str | None = None) -> Download:
    """Returns what is held about a person, as a file."""
    name = hashlib.sha256(raters[0].encode()).hexdigest()[:8]
    headers = {
        "Content-Disposition": f'attachment; filename="held-data-{name}.json"',
        "Cache-Control": "no-store",
    }
    parts = _parts(services, project, raters, user)
    return Download(services.limiter, project, parts, "application/json", headers)


async def _parts(
    services: Services, project: str, raters: list[str], user: str | None
) -> AsyncGenerator[bytes]:
    async with (
        services.pool.connection() as connection,
        connection.transaction(),
        aclosing(held_data.document(connection, project, raters, user)) as document,
    ):
        async for part in document:
            yield part
