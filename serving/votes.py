"""`/v1/feedback` takes votes on replies (`vote_submission`), says what became of each, and takes them back.

A feedback token is a field of the vote's body; to read or retract a vote, it is the header
`X-Feedback-Token`: an address ends in logs. A vote that waits in the spool is answered with 202 and the
status `spooled`: it is on the disk of one machine.

A batch's `Idempotency-Key` covers the batch (of a page's publishable key: what the batch sends) and, with its
index, each item, so that a repeated batch returns what was recorded and tries the rest. The items are
independent votes: a wrong item does not affect the others, and an item may supersede an earlier one.

A vote's handler authenticates its caller itself, as a chat's does: FastAPI's dependencies are a tenth of a
vote's cost.
"""

from dataclasses import asdict
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Header, Request
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from starlette.responses import Response

from feedback.records import Found, IdempotencyKey
from feedback.vote_life import Pace, life
from schemas.errors import InvalidRequest, NotFound, RequestError, Unauthorized
from schemas.feedback import Id, Vote, parse_vote
from schemas.times import rfc3339
from schemas.wire import check, decode
from serving.auth import Voter, charge, maybe_caller, require
from serving.keys import Caller
from serving.openapi import request_body
from serving.services import Services, services
from serving.vote_submission import (
    MAX_KEY_LENGTH,
    check_token,
    checked_key,
    digest,
    not_yet,
    submit_checked,
    submit_vote,
)

MAX_BATCH = 1_000

_KEY_HEADER = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "makes a retry of the same request safe",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_LENGTH},
}

router = APIRouter()


async def maybe_voter(request: Request) -> Caller | None:
    """Returns the caller, or None without a key. Raises Forbidden for a key that may not vote."""
    found = await maybe_caller(request)
    return None if found is None else require(found, "vote")


MaybeVoter = Annotated[Caller | None, Depends(maybe_voter)]
Idempotency = Annotated[str | None, Header(alias="Idempotency-Key")]


class _Batch(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    feedback: Annotated[list[Any], Field(max_length=MAX_BATCH)]


_BATCH = TypeAdapter(_Batch)
_ID = TypeAdapter(Id)


@router.post(
    "/v1/feedback",
    status_code=201,
    openapi_extra=request_body("/v1/feedback", Vote, _KEY_HEADER),
    responses={202: {"description": "The vote waits on the disk while the database is away."}},
)
async def vote(request: Request) -> Response:
    caller = await maybe_voter(request)
    data = decode(await request.body())
    idempotency_key = request.headers.get("idempotency-key")
    recorded = await submit_vote(services(request), caller, parse_vote(data), idempotency_key)
    status = 201 if recorded["status"] == "recorded" else 202
    return Response(orjson.dumps(recorded), status_code=status, media_type="application/json")


@router.post("/v1/feedback/batch", openapi_extra=request_body("/v1/feedback/batch", _Batch))
async def batch(
    request: Request, caller: Voter, idempotency_key: Idempotency = None
) -> dict[str, list[dict[str, Any]]]:
    """Returns for each item, in order, the response of POST /v1/feedback."""
    parts = services(request)
    items = check(_BATCH, decode(await request.body())).feedback
    charge(request, caller, "votes", max(0, len(items) - 1))
    key = checked_key(idempotency_key)
    if key is not None:
        # All of a page's visitors share its publishable key, so theirs belongs to what they sent.
        own = f"{digest(items).hex()}\n{key}" if caller.kind == "publishable" else key
        await parts.store.claim(caller.project, IdempotencyKey(caller.key_id, own, digest(items)))
    answers: list[dict[str, Any]] = []
    for index, item in enumerate(items):
        # A header cannot contain a line break, so no client's own key equals an item's.
        item_key = None if key is None else f"{key}\n{index}"
        try:
            answers.append(await submit_checked(parts, caller, parse_vote(item), item_key))
        except RequestError as error:
            parts.metrics.refused.labels(error.code).inc()
            answers.append(error.envelope())
    return {"feedback": answers}


@router.get("/v1/feedback/{feedback_id}")
async def get_vote(
    request: Request,
    caller: MaybeVoter,
    feedback_id: str,
    x_feedback_token: Annotated[str | None, Header()] = None,
) -> dict[str, Any]:
    """Returns the vote's status, the policy that first learned from it, when that policy went live, and what
    has become of the vote."""
    parts = services(request)
    found = await _find(parts, caller, feedback_id, x_feedback_token)
    trainer = parts.settings.trainer
    pace = Pace(trainer.min_votes, trainer.round_votes, trainer.round_seconds)
    now = await life(parts.pool, found, pace, parts.settings.serving.promotion)
    live_at = rfc3339(found.live_at) if found.live_at else None
    return {
        "id": found.id,
        "completion_id": found.completion_id,
        "choice": found.choice,
        "type": found.type,
        "status": found.status,
        "created_at": rfc3339(found.created_at),
        "superseded_by": found.superseded_by,
        "learned": {"policy": found.policy, "live_at": live_at} if found.policy else None,
        "life": {**asdict(now), "live_at": rfc3339(now.live_at) if now.live_at else None},
    }


@router.delete("/v1/feedback/{feedback_id}")
async def retract_vote(
    request: Request,
    caller: MaybeVoter,
    feedback_id: str,
    x_feedback_token: Annotated[str | None, Header()] = None,
) -> dict[str, str]:
    found = await _find(services(request), caller, feedback_id, x_feedback_token)
    await services(request).store.retract(found)
    services(request).tastes.voted(found.project, found.rater)
    return {"id": found.id, "completion_id": found.completion_id, "status": "retracted"}


async def _find(services: Services, caller: Caller | None, feedback_id: str, token: str | None) -> Found:
    """Returns a vote that the caller may read: with a token, only a vote of the person who was answered."""
    if caller is None and token is None:
        raise Unauthorized("Send a key, or the feedback_token that came with the completion.")
    if "\0" in feedback_id:
        raise InvalidRequest("A feedback id contains no NUL character.", param="feedback_id")
    found = await services.store.find(check(_ID, feedback_id))
    not_found = NotFound("There is no such feedback.", code="feedback_not_found", param="feedback_id")
    if found is None and (services.spool.recovering or services.spool.holds(feedback_id)):
        raise not_yet()
    if found is None or (caller is not None and caller.project != found.project):
        raise not_found
    if caller is None or caller.kind == "publishable":
        check_token(services.signer, found.completion_id, token)
        if found.rater != found.turn_rater:
            raise not_found
    return found
