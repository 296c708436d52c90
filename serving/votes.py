"""`/v1/feedback` takes votes on replies, and acknowledges a vote only when it is durable.

An admin or secret key may vote on any turn of its project, also in the name of another `user`. A publishable
key, or no key, needs the completion's own `feedback_token`, and votes as the person who was answered. The
token is a field of the vote's body; to read or retract a vote, it is the header `X-Feedback-Token`: an
address ends in logs.

While Postgres is away, a vote waits in this replica's spool (`feedback.spool`): 202 with the status `spooled`
says that it is on the disk of one machine. It is recorded later, in its order, under the same id, unless it
does not fit its turn.

An `Idempotency-Key` belongs to the API key that sent it (without one, or with a page's publishable key, which
all of its visitors share: to the completion, or to what a batch sends) and stores the first success: the same
request again gets the same answer, another request 409; after an error the key is free. A batch's key covers
the batch and, with its index, each item, so that a repeated batch returns what was recorded and tries the
rest. The items are independent votes: a wrong item does not affect the others, and an item may supersede an
earlier one.

A vote's handler authenticates its caller itself, as a chat's does: FastAPI's dependencies are a tenth of a
vote's cost.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from feedback.export import everything
from feedback.records import Found, IdempotencyKey, Received, Recorded
from feedback.row_writer import line
from feedback.spool import Entry
from feedback.store import Store, TurnMissing, completion_not_found
from feedback.votable_turn import VotableTurn, check_edit
from feedback.vote_filter import Filter
from feedback.vote_life import Pace, life
from schemas.database import AsyncPool
from schemas.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    RequestError,
    Unauthorized,
    Unavailable,
)
from schemas.feedback import Edit, Id, Vote, parse_vote
from schemas.times import rfc3339
from schemas.turns import is_fresh
from schemas.wire import check, decode
from serving.auth import Reader, Voter, charge, charge_network, maybe_caller, require
from serving.completion import UNSTORED_PREFIX
from serving.keys import Caller
from serving.limits import RateLimiter
from serving.openapi import request_body
from serving.services import Services, services
from serving.token_signer import TokenSigner
from serving.vote_query import ExportQuery

MAX_BATCH = 1_000
MAX_EXPORTS = 2
"""Exports at once in one process; each holds a database connection until its client has read it."""

EXPORT_TIMEOUT = 60.0
"""Seconds for a client to read the next line of its export, after which it is disconnected."""

_MAX_KEY_LENGTH = 255
_KEY_HEADER = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "makes a retry of the same request safe",
    "schema": {"type": "string", "minLength": 1, "maxLength": _MAX_KEY_LENGTH},
}

FRESH_SECONDS = 60.0
"""Age of a reply up to which it may still wait in another replica's spool."""

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


async def submit_vote(
    services: Services, caller: Caller | None, vote: Vote, idempotency_key: str | None = None
) -> dict[str, str]:
    """Records a vote and returns `{"id", "completion_id", "status"}` once it is durable. Raises Unauthorized,
    Forbidden, NotFound, Conflict (`not_stored`, `idempotency_key_reused`) or InvalidRequest, and then nothing
    has changed."""
    return await _submit(services, caller, vote, _checked(idempotency_key))


async def _submit(services: Services, caller: Caller | None, vote: Vote, key: str | None) -> dict[str, str]:
    with services.metrics.vote():
        recorded = await _record(services, caller, vote, key)
    if recorded.new:
        services.metrics.feedback.labels(vote.type).inc()
    status = "spooled" if recorded.spooled else "recorded"
    return {"id": recorded.id, "completion_id": recorded.completion_id, "status": status}


async def _record(services: Services, caller: Caller | None, vote: Vote, key: str | None) -> Recorded:
    if vote.completion_id.startswith(UNSTORED_PREFIX):
        raise Conflict(
            "This reply was not stored (`store: false`), so it cannot be voted on.", code="not_stored"
        )
    if caller is None and vote.feedback_token is None:
        raise Unauthorized("Send a key, or the feedback_token that came with the completion.")
    received = _received(caller, vote, key)

    async def store() -> Recorded:
        try:
            return await _store_vote(services, caller, vote, key, received)
        except TurnMissing:
            if services.spool.recovering or is_fresh(vote.completion_id, FRESH_SECONDS):
                raise _not_yet() from None
            raise

    def entry() -> Entry:
        _authorise(services.signer, caller, vote)
        return {
            "kind": "vote",
            "id": received.id,
            "at": received.at.isoformat(),
            "caller": caller.identity() if caller else None,
            "vote": vote.model_dump(mode="json"),
            "key": key,
        }

    recorded = await services.spool.write(store, entry)
    return recorded or Recorded(received.id, vote.completion_id, new=False, spooled=True)


def _not_yet() -> Unavailable:
    message = "This is not recorded yet, or does not exist; try again soon."
    return Unavailable(message, code="not_recorded_yet", retry_after=2)


def _received(caller: Caller | None, vote: Vote, key: str | None) -> Received:
    """Returns the vote's id and time. With an Idempotency-Key, the id follows from the request, so that a
    retry gets the same one from another replica, too, while Postgres is away."""
    if key is None:
        return Received.now()
    owner = vote.completion_id if caller is None or caller.kind == "publishable" else caller.key_id
    return Received.now(owner, key, _digest(vote.model_dump(mode="json")).hex())


async def store_spooled_vote(services: Services, entry: Entry) -> None:
    """Stores a vote that waited in the spool. Raises RequestError where it does not fit its turn, TurnMissing
    where there is none."""
    received = Received(entry["id"], datetime.fromisoformat(entry["at"]), late=True)
    if await services.store.find(received.id) is not None:
        return  # the process died after it had stored the vote
    caller = Caller(**entry["caller"]) if entry["caller"] else None
    vote = parse_vote(entry["vote"])
    recorded = await _store_vote(services, caller, vote, entry["key"], received)
    if recorded.new:
        services.metrics.feedback.labels(vote.type).inc()


async def _store_vote(
    services: Services, caller: Caller | None, vote: Vote, key: str | None, received: Received
) -> Recorded:
    async with services.store.at_hand() as store:
        return await _store_at_hand(services, store, caller, vote, key, received)


async def _store_at_hand(
    services: Services, store: Store, caller: Caller | None, vote: Vote, key: str | None, received: Received
) -> Recorded:
    votable = await store.votable_turn(vote.completion_id)
    if votable is None:
        raise TurnMissing(vote.completion_id)
    if caller is not None and caller.project != votable.project:
        raise completion_not_found(vote.completion_id)
    rater = _rater(services.signer, caller, vote, votable)
    if received.late and await store.is_erased(votable.project, rater, received.at):
        raise NotFound("Who cast this vote was erased meanwhile.", code="erased")
    if votable.origin is not None and rater == votable.rater and not received.late:
        charge_network(services, votable.origin)
    if isinstance(vote, Edit):
        original = await store.reply_text(vote.completion_id, vote.choice)
        check_edit(
            vote,
            original,
            votable,
            context=services.fleet.context,
            most_bytes=services.settings.serving.max_body_bytes,
        )
    idempotency = None if key is None else _idempotency(caller, votable, key, vote.model_dump(mode="json"))
    recorded = await store.submit(votable, vote, rater, idempotency=idempotency, received=received)
    services.tastes.voted(votable.project, rater)
    return recorded


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
    key = _checked(idempotency_key)
    if key is not None:
        # All of a page's visitors share its publishable key, so theirs belongs to what they sent.
        own = f"{_digest(items).hex()}\n{key}" if caller.kind == "publishable" else key
        await parts.store.claim(caller.project, IdempotencyKey(caller.key_id, own, _digest(items)))
    answers: list[dict[str, Any]] = []
    for index, item in enumerate(items):
        # A header cannot contain a line break, so no client's own key equals an item's.
        item_key = None if key is None else f"{key}\n{index}"
        try:
            answers.append(await _submit(parts, caller, parse_vote(item), item_key))
        except RequestError as error:
            parts.metrics.refused.labels(error.code).inc()
            answers.append(error.envelope())
    return {"feedback": answers}


@router.get("/v1/feedback/export", responses={200: {"content": {"application/x-ndjson": {}}}})
async def export(
    request: Request, caller: Reader, query: Annotated[ExportQuery, Query()]
) -> StreamingResponse:
    if query.format != "jsonl":
        raise InvalidRequest("The only format is jsonl.", code="unsupported_format", param="format")
    parts = services(request)
    only = query.filter(parts.signer, caller.project, after=query.after, limit=query.limit)
    return _ExportResponse(parts, caller.project, only)


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
    now = await life(parts.pool, found, pace)
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


def _rater(signer: TokenSigner, caller: Caller | None, vote: Vote, votable: VotableTurn) -> str:
    """Returns the pseudonym of the vote's author. Raises Forbidden when the caller may not vote for them."""
    _authorise(signer, caller, vote)
    if vote.user is None or caller is None:
        return votable.rater
    return signer.rater_id(votable.project, vote.user, caller.kind)


def _authorise(signer: TokenSigner, caller: Caller | None, vote: Vote) -> None:
    """Raises Forbidden for a vote without a server's key that has no token, or names a user."""
    if caller is not None and caller.kind != "publishable":
        return
    _check_token(signer, vote.completion_id, vote.feedback_token)
    if vote.user is not None:
        raise Forbidden("Only a secret key may vote for a user that it names.", code="user_not_allowed")


async def _find(services: Services, caller: Caller | None, feedback_id: str, token: str | None) -> Found:
    """Returns a vote that the caller may read: with a token, only a vote of the person who was answered."""
    if caller is None and token is None:
        raise Unauthorized("Send a key, or the feedback_token that came with the completion.")
    if "\0" in feedback_id:
        raise InvalidRequest("A feedback id contains no NUL character.", param="feedback_id")
    found = await services.store.find(check(_ID, feedback_id))
    not_found = NotFound("There is no such feedback.", code="feedback_not_found", param="feedback_id")
    if found is None and services.spool.recovering:
        raise _not_yet()
    if found is None or (caller is not None and caller.project != found.project):
        raise not_found
    if caller is None or caller.kind == "publishable":
        _check_token(services.signer, found.completion_id, token)
        if found.rater != found.turn_rater:
            raise not_found
    return found


def _check_token(signer: TokenSigner, completion_id: str, token: str | None) -> None:
    if token is None or not signer.verify(completion_id, token):
        raise Forbidden(
            "Send the feedback_token that came with this completion.", code="invalid_feedback_token"
        )


def _checked(key: str | None) -> str | None:
    if key is not None and not (0 < len(key) <= _MAX_KEY_LENGTH and key.isascii() and key.isprintable()):
        raise InvalidRequest(
            f"An Idempotency-Key has 1 to {_MAX_KEY_LENGTH} printable ASCII characters; use a random UUID.",
            code="invalid_idempotency_key",
        )
    return key


def _idempotency(caller: Caller | None, votable: VotableTurn, key: str, body: Any) -> IdempotencyKey:
    if caller is None or caller.kind == "publishable":
        return IdempotencyKey(votable.key_id, f"{votable.completion_id}\n{key}", _digest(body))
    return IdempotencyKey(caller.key_id, key, _digest(body))


def _digest(body: Any) -> bytes:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest()


class _ExportResponse(StreamingResponse):
    """A project's export, line by line. Raises RateLimited while MAX_EXPORTS are running, and
    ClientDisconnect when the client has not read the next line within EXPORT_TIMEOUT."""

    def __init__(self, services: Services, project: str, only: Filter) -> None:
        self._limiter: RateLimiter = services.limiter
        self._lines = _lines(services.pool, project, only)
        super().__init__(self._lines, media_type="application/x-ndjson")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._limiter.concurrently("exports", MAX_EXPORTS):
            async with aclosing(self._lines):
                await super().__call__(scope, receive, export_timeout(send))


def export_timeout(send: Send) -> Send:
    """Returns a `send` that raises ClientDisconnect when the client has not read within EXPORT_TIMEOUT."""

    async def send_in_time(message: Message) -> None:
        try:
            async with asyncio.timeout(EXPORT_TIMEOUT):
                await send(message)
        except TimeoutError:
            raise ClientDisconnect from None

    return send_in_time


async def _lines(pool: AsyncPool, project: str, only: Filter) -> AsyncGenerator[str]:
    async with pool.connection() as connection:
        async for vote in everything(connection, project, only):
            yield line(vote)
