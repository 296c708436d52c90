"""`POST /v1/chat/completions` and `GET /v1/models` follow OpenAI's API, so that its clients work unchanged.

Hearken's own data is in one extra field, `hearken`. A client that disconnects stops its generation, streaming
or not. Chunks are plain dictionaries: nothing is validated per token.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, TypeVar

import structlog
from fastapi import APIRouter, Request
from starlette.responses import Response

from schemas.chat import DEFAULT_MODEL, ChatRequest, parse_chat
from schemas.errors import NotFound
from schemas.wire import decode, json_line
from serving.auth import SESSION_HEADER, User, caller, charge_replies, network_of, require, visitor
from serving.completion import Completion
from serving.consent import obey_consent
from serving.keys import Caller
from serving.openapi import EVENT_STREAM, request_body
from serving.services import Services, services
from serving.streams import CompletionResponse

router = APIRouter()
log = structlog.get_logger()
T = TypeVar("T")


@router.post(
    "/v1/chat/completions",
    openapi_extra=request_body("/v1/chat/completions", ChatRequest),
    responses=EVENT_STREAM,
)
async def chat_completions(request: Request) -> Response:
    found = require(await caller(request), "chat")
    chat = parse_chat(decode(await request.body()))
    person = await visitor(request, found, request.headers.get(SESSION_HEADER))
    chat = await obey_consent(services(request), found, chat, person, network_of(request))
    completion = Completion(services(request), found, chat, person, network=network_of(request))
    completion.token_buckets = charge_replies(request, found, chat.n, completion.person)
    structlog.contextvars.bind_contextvars(policy=completion.assignment.policy, completion=completion.id)
    return CompletionResponse(
        completion, _encoded(chunks(completion, chat)) if chat.stream else None, services(request).metrics
    )


@router.get("/v1/models")
async def models(request: Request, caller: User) -> dict[str, Any]:
    return {"object": "list", "data": await _models(services(request), caller)}


@router.get("/v1/models/{model}")
async def model(request: Request, model: str, caller: User) -> dict[str, Any]:
    for card in await _models(services(request), caller):
        if card["id"] == model:
            return card
    raise NotFound(f"There is no model {model[:64]}.", code="model_not_found", param="model")


async def _models(services: Services, caller: Caller) -> list[dict[str, Any]]:
    """Returns the routed model and, for an operator, each policy that can be pinned."""
    route = services.router.route(caller.project)
    pinnable = [policy for policy in route.policies() if services.fleet.serves(route.adapter(policy))]
    async with services.pool.connection() as connection:
        cursor = await connection.execute(
            "select id, extract(epoch from created_at)::bigint as created from policies"
            " where project = %s and id = any(%s) order by created_at desc",
            [caller.project, pinnable],
        )
        rows = await cursor.fetchall()
    newest = max((row["created"] for row in rows), default=0)
    cards = [{"id": DEFAULT_MODEL, "created": newest}, *(rows if caller.may("operate") else [])]
    return [{**card, "object": "model", "owned_by": "hearken"} for card in cards]


async def _encoded(batches: AsyncGenerator[list[dict[str, Any]]]) -> AsyncGenerator[bytes]:
    """Yields server-sent events, with OpenAI's mark at their end."""
    async with aclosing(batches):
        async for batch in batches:
            yield b"".join(b"data: " + json_line(each) + b"\n\n" for each in batch)
    yield b"data: [DONE]\n\n"


async def chunks(completion: Completion, chat: ChatRequest) -> AsyncGenerator[list[dict[str, Any]]]:
    """Yields OpenAI's chunks; those that come together are one list, so that the client wakes once. The last
    choice's final chunk is held back until the turn is durable, and has the `hearken` field; so does the
    usage chunk, where it was asked for."""
    header = completion.header("chat.completion.chunk")
    usage = {"usage": None} if chat.include_usage else {}

    def chunk(index: int, delta: dict[str, Any], logprobs: Any, finish: str | None) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return {**header, "choices": [choice], **usage}

    begun: set[int] = set()
    final: dict[str, Any] | None = None
    async with aclosing(completion.deltas()) as deltas:
        async for delta in deltas:
            batch = []
            if delta.choice not in begun:
                begun.add(delta.choice)
                batch.append(chunk(delta.choice, {"role": "assistant", "content": ""}, None, None))
            if delta.message or (chat.logprobs and delta.logprobs):
                batch.append(chunk(delta.choice, delta.message, completion.logprobs(delta.logprobs), None))
            if delta.finish_reason:
                if final is not None:
                    batch.append(final)
                final = chunk(delta.choice, {}, None, delta.finish_reason)
            if batch:
                yield batch
    await completion.record()
    extension = {"hearken": completion.extension()}
    last = [{**(final or {**header, "choices": []}), **extension}]
    if usage:
        last.append({**header, "choices": [], "usage": completion.usage(), **extension})
    yield last
