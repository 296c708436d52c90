"""`POST /v1/chat/completions` and `GET /v1/models` follow OpenAI's API, so that its clients work unchanged.

Hearken's own data is in one extra field, `hearken`. A client that disconnects stops its generation, streaming
or not. Chunks are plain dictionaries: nothing is validated per token.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, TypeVar

import orjson
import structlog
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from schemas.chat import DEFAULT_MODEL, ChatRequest, parse_chat
from schemas.errors import NotFound, RequestError
from schemas.wire import decode
from serving.auth import caller
from serving.completion import Completion
from serving.error_handlers import TRANSIENT_ERRORS, to_request_error
from serving.keys import Caller
from serving.metrics import Metrics
from serving.openapi import request_body
from serving.services import Services, services
from serving.streams import (
    KEEP_ALIVE_SECONDS,
    WRITE_SECONDS,
    cancel,
    cancel_on_disconnect,
    keep_alive,
    with_deadline,
)

router = APIRouter()
log = structlog.get_logger()
T = TypeVar("T")

_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
]


@router.post("/v1/chat/completions", openapi_extra=request_body("/v1/chat/completions", ChatRequest))
async def chat_completions(request: Request) -> Response:
    found = await caller(request)
    chat = parse_chat(decode(await request.body()))
    completion = Completion(services(request), found, chat)
    structlog.contextvars.bind_contextvars(policy=completion.assignment.policy, completion=completion.id)
    return _CompletionResponse(completion, chat, services(request).metrics)


@router.get("/v1/models")
async def models(request: Request, caller: Annotated[Caller, Depends(caller)]) -> dict[str, Any]:
    return {"object": "list", "data": await _models(services(request), caller)}


@router.get("/v1/models/{model}")
async def model(request: Request, model: str, caller: Annotated[Caller, Depends(caller)]) -> dict[str, Any]:
    for card in await _models(services(request), caller):
        if card["id"] == model:
            return card
    raise NotFound(f"There is no model {model[:64]}.", code="model_not_found", param="model")


async def _models(services: Services, caller: Caller) -> list[dict[str, Any]]:
    """Returns the routed model and, for an admin, each policy that can be pinned."""
    route = services.router.route(caller.project)
    pinnable = [policy for policy in route.policies() if services.fleet.serves(policy)]
    async with services.pool.connection() as connection:
        cursor = await connection.execute(
            "select id, extract(epoch from created_at)::bigint as created from policies"
            " where project = %s and id = any(%s) order by created_at desc",
            [caller.project, pinnable],
        )
        rows = await cursor.fetchall()
    newest = max((row["created"] for row in rows), default=0)
    cards = [{"id": DEFAULT_MODEL, "created": newest}, *(rows if caller.kind == "admin" else [])]
    return [{**card, "object": "model", "owned_by": "hearken"} for card in cards]


class _CompletionResponse(Response):
    """Sends a completion, whole or as server-sent events. Errors before the first byte are raised."""

    def __init__(self, completion: Completion, chat: ChatRequest, metrics: Metrics) -> None:
        super().__init__()
        self._completion = completion
        self._chat = chat
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        send = with_deadline(send)
        try:
            if self._chat.stream:
                await cancel_on_disconnect(receive, self._stream(send))
            elif await cancel_on_disconnect(receive, self._complete()):
                body = orjson.dumps(self._completion.response())
                await Response(body, media_type="application/json")(scope, receive, send)
        except TimeoutError:
            log.warning("client_stalled", seconds=WRITE_SECONDS)

    async def _complete(self) -> bool:
        async with aclosing(self._completion.deltas()) as deltas:
            async for _ in deltas:
                pass
        await self._completion.record()
        return True

    async def _stream(self, send: Send) -> None:
        """Sends the chunks. If the first takes long, the response begins without it, so that no proxy between
        gives up; an error after that is an event."""
        async with aclosing(chunks(self._completion, self._chat)) as batches:
            first = asyncio.ensure_future(anext(batches))
            comments: asyncio.Task[None] | None = None
            try:
                await asyncio.wait({first}, timeout=KEEP_ALIVE_SECONDS)
                if first.done():
                    first.result()
                await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
                comments = asyncio.create_task(keep_alive(send))
                await send(_server_sent_events(await first))
                async for batch in batches:
                    await send(_server_sent_events(batch))
            except (RequestError, *TRANSIENT_ERRORS) as error:
                if comments is None:
                    raise
                answer = to_request_error(error)
                detail = str(error).splitlines()[:1]
                log.error("stream_failed", error=type(error).__name__, code=answer.code, detail=detail)
                self._metrics.refused.labels(answer.code).inc()
                await send(_server_sent_events([answer.envelope()]))
            finally:
                await cancel(first, comments)
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})


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


def _server_sent_events(bodies: list[dict[str, Any]]) -> dict[str, Any]:
    body = b"".join(b"data: " + orjson.dumps(each) + b"\n\n" for each in bodies)
    return {"type": "http.response.body", "body": body, "more_body": True}
