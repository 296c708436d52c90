"""`/v1/quarantine`: raters whose votes look hostile and do not teach, with the evidence. An operator accepts
or rejects them; either decision may be changed later."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from feedback import quarantine
from feedback.quarantine import MOST_HELD, State
from schemas.errors import InvalidRequest
from schemas.wire import check, decode
from serving.admin import with_times
from serving.auth import Operator, Viewer, acting
from serving.openapi import request_body
from serving.services import services

router = APIRouter(prefix="/v1/quarantine")

STATES: dict[Literal["accept", "reject"], Literal["accepted", "rejected"]] = {
    "accept": "accepted",
    "reject": "rejected",
}
"""What a decision makes of a rater."""


class Decision(BaseModel):
    """Whether a rater's votes teach again from the next round on (`accept`), or not any more, and why."""

    model_config = ConfigDict(extra="forbid", strict=True)

    decision: Literal["accept", "reject"]
    reason: Annotated[str, Field(min_length=1, max_length=500)]


_DECISION = TypeAdapter(Decision)


@router.get("")
async def list_raters(
    request: Request,
    caller: Viewer,
    state: State | None = None,
    before: Annotated[int | None, Query(ge=1, lt=2**62)] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_HELD)] = 50,
) -> dict[str, Any]:
    """Lists raters in a state, or in any, the newest first, from before the entry `before`; `counts` says how
    many are in each."""
    async with services(request).pool.connection() as connection:
        found = await quarantine.page(connection, caller.project, limit + 1, state, before)
        counts = await quarantine.counts(connection, caller.project)
    data = [with_times(each) for each in found[:limit]]
    return {"object": "list", "data": data, "has_more": len(found) > limit, "counts": counts}


@router.get("/{rater}")
async def one_rater(request: Request, rater: str, caller: Viewer) -> dict[str, Any]:
    """Returns a rater with their newest votes, and what these were said of."""
    async with services(request).pool.connection() as connection:
        return shown(await quarantine.entry(connection, caller.project, _checked(rater)))


@router.post("/{rater}", openapi_extra=request_body("/v1/quarantine/{rater}", Decision))
async def decide(request: Request, rater: str, caller: Operator) -> dict[str, Any]:
    """Accepts or rejects a rater."""
    said = check(_DECISION, decode(await request.body()))
    async with acting(request, caller) as connection:
        found = await quarantine.decide(
            connection, caller.project, _checked(rater), STATES[said.decision], said.reason
        )
    return shown(found)


def _checked(rater: str) -> str:
    if "\0" in rater:
        raise InvalidRequest("A rater's pseudonym contains no NUL character.", param="rater")
    return rater


def shown(entry: dict[str, Any]) -> dict[str, Any]:
    """Returns an entry with its times as RFC 3339 strings."""
    return with_times({**entry, "samples": [with_times(each) for each in entry["samples"]]})
