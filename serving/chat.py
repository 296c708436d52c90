"""`POST /v1/chat/completions` and `GET /v1/models` follow OpenAI's API, so that its clients work unchanged.

Hearken's own data is in one extra field, `hearken`. A client that disconnects stops its generation, streaming
or not. Chunks are plain dictionaries: nothing is validated per token.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
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

router = APIRouter()
log = structlog.get_logger()
T = TypeVar("T")


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
        if self._chat.stream:
            await _cancel_on_disconnect(receive, self._stream(send))
        elif await _cancel_on_disconnect(receive, self._complete()):
            body = orjson.dumps(self._completion.response())
            await Response(body, media_type="application/json")(scope, receive, send)

    async def _complete(self) -> bool:
        async with aclosing(self._completion.deltas()) as deltas:
            async for _ in deltas:
                pass
        await self._completion.record()
        return True

    async def _stream(self, send: Send) -> None:
        async with aclosing(chunks(self._completion, self._chat)) as batches:
            first = await anext(batches)
            headers = [
                (b"content-type", b"text/event-stream; charset=utf-8"),
                (b"cache-control", b"no-store"),
            ]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send(_server_sent_events(first))
            try:
                async for batch in batches:
                    await send(_server_sent_events(batch))
            except (RequestError, *TRANSIENT_ERRORS) as error:
                answer = to_request_error(error)
                detail = str(error).splitlines()[:1]
                log.error("stream_failed", error=type(error).__name__, code=answer.code, detail=detail)
                self._metrics.refused.labels(answer.code).inc()
                await send(_server_sent_events([answer.envelope()]))
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})


async def chunks(completion: Completion, chat: ChatRequest) -> AsyncGenerator[list[dict[str, Any]]]:
    """Yields OpenAI's chunks; those that come together are one list, so that the client wakes once. The last
    choice's final chunk is held back until the turn is durable, and has the `hearken` field; so does the
    usage chunk, where it was asked for."""
    header = completion.header("chat.completion.chunk")
    usage = {"usage": None} if chat.stream_options and chat.stream_options.include_usage else {}

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
            if delta.text or chat.logprobs:
                logprobs = completion.logprobs(delta.logprobs)
                batch.append(chunk(delta.choice, {"content": delta.text}, logprobs, None))
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


async def _cancel_on_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """Returns the result of `work`, or cancels it when the client disconnects and returns None."""

    async def disconnect() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(disconnect())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        log.info("client_disconnected")
        return None
    finally:
        waiting.cancel()
        if working.cancel():
            await asyncio.wait({working})
