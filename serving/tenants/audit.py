"""`GET /v1/audit`: who changed what in a project, newest first. Nobody can change or delete an entry."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from feedback.audit import MOST_ENTRIES, entries
from serving.admin import with_times
from serving.auth import Admin
from serving.services import services

router = APIRouter()

Word = Annotated[str | None, Query(max_length=128)]


@router.get("/v1/audit")
async def audit(
    request: Request,
    caller: Admin,
    before: Annotated[int | None, Query(ge=1, lt=2**62)] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_ENTRIES)] = 50,
    actor: Word = None,
    action: Word = None,
    target: Word = None,
) -> dict[str, Any]:
    """Lists entries, from before the entry `before`, of an actor, an action (`key.created`, or all of `key`)
    and a target."""
    async with services(request).pool.connection() as connection:
        found = await entries(
            connection, caller.project, limit, before, actor=actor, action=action, target=target
        )
    return {"object": "list", "data": [with_times(entry) for entry in found]}
