"""`/v1/users/{user}/consent` is a person's own choice whether what they say and vote is kept.

Who may read and set it is as in `serving.users`. A chat obeys it, and what the project asks for, by
`obey_consent`: it is then answered as one with `store: false`. The statement that stores a turn looks again
(`feedback.consent`), so a refusal counts also where it came while the reply was written, or was not read.
"""

import asyncio
from typing import Any

import psycopg
from fastapi import APIRouter, Request
from psycopg_pool import PoolTimeout
from pydantic import BaseModel, ConfigDict, TypeAdapter

from feedback import consent
from schemas.chat import ChatRequest
from schemas.wire import check, decode
from serving.auth import Reader
from serving.identity import Visitor, identify
from serving.keys import Caller
from serving.openapi import request_body
from serving.services import Services, services
from serving.users import VISITOR, Eraser, KnownCaller, holder, pseudonyms

router = APIRouter()

_PATIENCE = 1.0  # seconds that a chat waits for the database


class Choice(BaseModel):
    """Whether what a person says and votes is kept and learned from."""

    model_config = ConfigDict(extra="forbid", strict=True)

    learning: bool


CHOICE = TypeAdapter(Choice)
"""Checks a choice."""

_OWN, _OF_USER = "/v1/users/me/consent", "/v1/users/{user}/consent"


@router.get(_OWN)
async def show_own(request: Request, caller: KnownCaller) -> dict[str, Any]:
    """Returns what the holder of the session chose: whether what they say and vote is kept."""
    return await _shown(request, caller, [await holder(request, caller)])


@router.put(_OWN, openapi_extra=request_body(_OWN, Choice, method="put"))
async def choose(request: Request, caller: KnownCaller) -> dict[str, Any]:
    """Records the choice of the holder of the session: whether what they say and vote is kept."""
    return await _choose(request, caller, [await holder(request, caller)], VISITOR)


@router.get("/v1/users/{user:path}/consent")
async def show(request: Request, user: str, caller: Reader) -> dict[str, Any]:
    """Returns what a person chose: whether what they say and vote is kept."""
    return await _shown(request, caller, pseudonyms(request, caller, user))


@router.put("/v1/users/{user:path}/consent", openapi_extra=request_body(_OF_USER, Choice, method="put"))
async def choose_for(request: Request, user: str, caller: Eraser) -> dict[str, Any]:
    """Records a person's choice: whether what they say and vote is kept."""
    return await _choose(request, caller, pseudonyms(request, caller, user), caller.key_id)


async def _shown(request: Request, caller: Caller, raters: list[str]) -> dict[str, Any]:
    async with services(request).pool.connection() as connection:
        return await consent.choice(connection, caller.project, raters)


async def _choose(request: Request, caller: Caller, raters: list[str], set_by: str) -> dict[str, Any]:
    said = check(CHOICE, decode(await request.body()))
    async with services(request).pool.connection() as connection:
        return await consent.choose(connection, caller.project, raters, said.learning, set_by)


async def obey_consent(
    services: Services, caller: Caller, request: ChatRequest, visitor: Visitor | None, network: str
) -> ChatRequest:
    """Returns the request as it is answered. Raises InvalidRequest as `identify`."""
    conversation = request.metadata.get("conversation_id", "")
    asks = identify(services.signer, caller, request.user, visitor, conversation, network)
    if not request.store or services.spool.active:
        return request
    try:
        async with asyncio.timeout(_PATIENCE):
            if await services.store.may_store(caller.project, asks.rater, caller.key_id):
                return request
    except (psycopg.Error, PoolTimeout, TimeoutError):
        return request
    return request.model_copy(update={"store": False})
