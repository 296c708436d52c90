"""`/v1/webhooks` says where a project's events are sent. It needs an admin key."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import TypeAdapter

from feedback import webhooks
from feedback.webhook_target import Targets
from schemas.webhooks import NewWebhook, Replay
from schemas.wire import check, decode
from serving.admin import with_times
from serving.auth import Admin, acting
from serving.openapi import request_body
from serving.services import services

router = APIRouter(prefix="/v1/webhooks")

_NEW_WEBHOOK = TypeAdapter(NewWebhook)
_REPLAY = TypeAdapter(Replay)


@router.post("", status_code=201, openapi_extra=request_body("/v1/webhooks", NewWebhook))
async def add(request: Request, caller: Admin) -> dict[str, Any]:
    """Adds an endpoint; the answer has the secret that signs what is sent, this once."""
    new = check(_NEW_WEBHOOK, decode(await request.body()))
    parts = services(request)
    Targets(parts.settings.serving.webhook_networks).check(new.url)
    async with acting(request, caller) as connection:
        return with_times(await webhooks.add(connection, caller.project, new))


@router.get("")
async def endpoints(request: Request, caller: Admin) -> dict[str, Any]:
    async with services(request).pool.connection() as connection:
        found = await webhooks.endpoints(connection, caller.project)
    return {"object": "list", "data": [with_times(each) for each in found]}


@router.delete("/{id}")
async def delete(request: Request, caller: Admin, id: str) -> dict[str, Any]:
    async with acting(request, caller) as connection:
        await webhooks.delete(connection, caller.project, id)
    return {"id": id, "deleted": True}


@router.post("/{id}/enable")
async def enable(request: Request, caller: Admin, id: str) -> dict[str, Any]:
    """Sends to an endpoint again that was disabled, or pauses."""
    async with acting(request, caller) as connection:
        await webhooks.enable(connection, caller.project, id)
    return {"id": id, "disabled_at": None}


@router.post("/{id}/replay", openapi_extra=request_body("/v1/webhooks/{id}/replay", Replay))
async def replay(request: Request, caller: Admin, id: str) -> dict[str, Any]:
    """Sends all events since a time again, delivered or not, under the same ids."""
    since = check(_REPLAY, decode(await request.body())).since
    async with acting(request, caller) as connection:
        count = await webhooks.replay(connection, caller.project, id, since)
    return {"id": id, "replayed": count}


@router.get("/{id}/deliveries")
async def deliveries(
    request: Request,
    caller: Admin,
    id: str,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
    before: Annotated[str | None, Query(max_length=64)] = None,
) -> dict[str, Any]:
    """Lists deliveries, newest first: when each was tried, and what came of it."""
    async with services(request).pool.connection() as connection:
        found = await webhooks.deliveries(connection, caller.project, id, limit, before)
    return {"object": "list", "data": [with_times(each) for each in found]}
