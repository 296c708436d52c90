"""/v1/feedback: what people think of a reply, acknowledged only when it is durable.

Who may vote: an admin or secret key on any turn of its project, and in the name of another `user`; a
publishable key, or no key, only with the completion's own `feedback_token`, as the one who was answered.
The token comes in the body of a vote; to look at a vote or to retract it, in the header
`X-Feedback-Token` or the query `feedback_token`.

An `Idempotency-Key` belongs to the API key that sent it (without a key: to the completion) and remembers
the first success: the same request again gets the same answer, another request 409; after an error it is
still free. A batch takes its key as a whole and each item in it by place, so that sending a batch again
brings back what was recorded and tries the rest. Its items are votes of their own: one wrong item does not
touch the others, and an item may supersede an earlier one.

A vote asks for its caller itself, as a chat does: FastAPI's dependencies are a tenth of what a vote costs.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from feedback.export import everything, line
from feedback.records import Found, IdempotencyKey, Recorded
from feedback.store import Store, completion_not_found
from feedback.votable_turn import VotableTurn, check_edit
from schemas.database import AsyncPool
from schemas.errors import Conflict, Forbidden, InvalidRequest, NotFound, RequestError, Unauthorized
from schemas.feedback import Edit, Id, Vote, parse_vote
from schemas.times import rfc3339
from schemas.wire import check, decode
from serving.answer import UNSTORED
from serving.auth import Caller, Seals, caller, maybe_caller
from serving.described import body
from serving.limits import Limiter

MOST_VOTES = 1_000
MOST_EXPORTS = 2
"""At once in one process: each holds a connection for as long as its client takes to read."""

PATIENCE = 60.0
"""Seconds for a client to take the next line of its export, or it is cut off."""

_LONGEST_KEY = 255
_KEY_HEADER = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "makes sending the same again safe",
    "schema": {"type": "string", "minLength": 1, "maxLength": _LONGEST_KEY},
}

router = APIRouter()

MaybeCaller = Annotated[Caller | None, Depends(maybe_caller)]
KnownCaller = Annotated[Caller, Depends(caller)]
Idempotency = Annotated[str | None, Header(alias="Idempotency-Key")]


class _Batch(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    feedback: Annotated[list[Any], Field(max_length=MOST_VOTES)]


_BATCH = TypeAdapter(_Batch)
_ID = TypeAdapter(Id)


async def submit_vote(
    state: Any, caller: Caller | None, vote: Vote, idempotency_key: str | None = None
) -> dict[str, str]:
    """Record a vote; `state` is the application's. Returns `{"id", "completion_id", "status"}` once it is
    durable. Raises Unauthorized, Forbidden, NotFound, Conflict (`not_stored`, `idempotency_key_reused`)
    or InvalidRequest, and then nothing has changed."""
    return await _submit(state, caller, vote, _checked(idempotency_key))


async def _submit(state: Any, caller: Caller | None, vote: Vote, key: str | None) -> dict[str, str]:
    with state.metrics.vote():
        recorded = await _record(state, caller, vote, key)
    if recorded.new:
        state.metrics.feedback.labels(vote.type).inc()
    return {"id": recorded.id, "completion_id": recorded.completion_id, "status": "recorded"}


async def _record(state: Any, caller: Caller | None, vote: Vote, key: str | None) -> Recorded:
    if vote.completion_id.startswith(UNSTORED):
        raise Conflict(
            "Nothing was kept of this reply (`store: false`), so it has no votes.", code="not_stored"
        )
    if caller is None and vote.feedback_token is None:
        raise Unauthorized("Send a key, or the feedback_token that came with the completion.")
    store: Store
    async with state.store.at_hand() as store:
        return await _cast(state, store, caller, vote, key)


async def _cast(state: Any, store: Store, caller: Caller | None, vote: Vote, key: str | None) -> Recorded:
    votable = await store.votable_turn(vote.completion_id)
    if votable is None or (caller is not None and caller.project != votable.project):
        raise completion_not_found(vote.completion_id)
    rater = _rater(state.seals, caller, vote, votable)
    if isinstance(vote, Edit):
        original = await store.reply_text(vote.completion_id, vote.choice)
        check_edit(
            vote,
            original,
            votable,
            context=state.fleet.context,
            most_bytes=state.settings.serving.max_body_bytes,
        )
    idempotency = None if key is None else _idempotency(caller, votable, key, vote.model_dump(mode="json"))
    return await store.submit(votable, vote, rater, idempotency=idempotency)


@router.post("/v1/feedback", status_code=201, openapi_extra=body("/v1/feedback", Vote, _KEY_HEADER))
async def vote(request: Request) -> Response:
    caller = await maybe_caller(request)
    data = decode(await request.body())
    idempotency_key = request.headers.get("idempotency-key")
    recorded = await submit_vote(request.app.state, caller, parse_vote(data), idempotency_key)
    return Response(orjson.dumps(recorded), status_code=201, media_type="application/json")


@router.post("/v1/feedback/batch", openapi_extra=body("/v1/feedback/batch", _Batch))
async def batch(
    request: Request, caller: KnownCaller, idempotency_key: Idempotency = None
) -> dict[str, list[dict[str, Any]]]:
    """For each item, in order, what POST /v1/feedback would have answered."""
    state = request.app.state
    items = check(_BATCH, decode(await request.body())).feedback
    key = _checked(idempotency_key)
    if key is not None:
        await state.store.claim(caller.project, IdempotencyKey(caller.key_id, key, _digest(items)))
    answers: list[dict[str, Any]] = []
    for index, item in enumerate(items):
        # A line break cannot be in a header, so no client's own key is ever an item's.
        item_key = None if key is None else f"{key}\n{index}"
        try:
            answers.append(await _submit(state, caller, parse_vote(item), item_key))
        except RequestError as error:
            state.metrics.refused.labels(error.code).inc()
            answers.append(error.envelope())
    return {"feedback": answers}


@router.get("/v1/feedback/export")
async def export(request: Request, caller: KnownCaller, format: str = "jsonl") -> StreamingResponse:
    if caller.kind == "publishable":
        raise Forbidden("A publishable key may not export; use a secret key.")
    if format != "jsonl":
        raise InvalidRequest("The only format is jsonl.", code="unsupported_format", param="format")
    return _Exporting(request.app.state, caller.project)


@router.get("/v1/feedback/{feedback_id}")
async def look(
    request: Request,
    caller: MaybeCaller,
    feedback_id: str,
    x_feedback_token: Annotated[str | None, Header()] = None,
    feedback_token: Annotated[str | None, Query()] = None,
) -> dict[str, Any]:
    """Whether the vote stands, which policy first learned from it, and since when that one answers."""
    found = await _find(request.app.state, caller, feedback_id, x_feedback_token or feedback_token)
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
    }


@router.delete("/v1/feedback/{feedback_id}")
async def retract(
    request: Request,
    caller: MaybeCaller,
    feedback_id: str,
    x_feedback_token: Annotated[str | None, Header()] = None,
    feedback_token: Annotated[str | None, Query()] = None,
) -> dict[str, str]:
    found = await _find(request.app.state, caller, feedback_id, x_feedback_token or feedback_token)
    await request.app.state.store.retract(found)
    return {"id": found.id, "completion_id": found.completion_id, "status": "retracted"}


def _rater(seals: Seals, caller: Caller | None, vote: Vote, votable: VotableTurn) -> str:
    """Whose vote it is. Raises Forbidden when the caller may not give it."""
    if caller is not None and caller.kind != "publishable":
        return (
            seals.rater(votable.project, vote.user, caller.kind) if vote.user is not None else votable.rater
        )
    _check_token(seals, votable.completion_id, vote.feedback_token)
    if vote.user is not None:
        raise Forbidden("Only a secret key may vote for a user that it names.", code="user_not_allowed")
    return votable.rater


async def _find(state: Any, caller: Caller | None, feedback_id: str, token: str | None) -> Found:
    """A vote that the caller may see: with a token, one of whoever the completion was for."""
    if caller is None and token is None:
        raise Unauthorized("Send a key, or the feedback_token that came with the completion.")
    if "\0" in feedback_id:
        raise InvalidRequest("A feedback id has no NUL.", param="feedback_id")
    found: Found | None = await state.store.find(check(_ID, feedback_id))
    not_found = NotFound("There is no such feedback.", code="feedback_not_found", param="feedback_id")
    if found is None or (caller is not None and caller.project != found.project):
        raise not_found
    if caller is None or caller.kind == "publishable":
        _check_token(state.seals, found.completion_id, token)
        if found.rater != found.turn_rater:
            raise not_found
    return found


def _check_token(seals: Seals, completion_id: str, token: str | None) -> None:
    if token is None or not seals.opens(completion_id, token):
        raise Forbidden(
            "Send the feedback_token that came with this completion.", code="invalid_feedback_token"
        )


def _checked(key: str | None) -> str | None:
    if key is not None and not (0 < len(key) <= _LONGEST_KEY and key.isascii() and key.isprintable()):
        raise InvalidRequest(
            f"An Idempotency-Key is 1 to {_LONGEST_KEY} printable ASCII characters; a random UUID is best.",
            code="invalid_idempotency_key",
        )
    return key


def _idempotency(caller: Caller | None, votable: VotableTurn, key: str, body: Any) -> IdempotencyKey:
    if caller is None:
        return IdempotencyKey(votable.key_id, f"{votable.completion_id}\n{key}", _digest(body))
    return IdempotencyKey(caller.key_id, key, _digest(body))


def _digest(body: Any) -> bytes:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest()


class _Exporting(StreamingResponse):
    """A project's export, line by line. Raises RateLimited while MOST_EXPORTS are running, and breaks off,
    with ClientDisconnect, when its client has not taken the next line within PATIENCE."""

    def __init__(self, state: Any, project: str) -> None:
        self._limiter: Limiter = state.limiter
        self._lines = _lines(state.pool, project)
        super().__init__(self._lines, media_type="application/x-ndjson")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(PATIENCE):
                    await send(message)
            except TimeoutError:
                raise ClientDisconnect from None

        with self._limiter.hold("exports", MOST_EXPORTS):
            async with aclosing(self._lines):
                await super().__call__(scope, receive, in_time)


async def _lines(pool: AsyncPool, project: str) -> AsyncGenerator[str]:
    async with pool.connection() as connection:
        async for vote in everything(connection, project):
            yield line(vote)
