"""`POST /v1/chat/completions` and `GET /v1/models`: OpenAI's, so that any of its clients works unchanged.

What is ours is in one extra field, `hearken`. A client that hangs up stops its generation, streaming or
not. Chunks are plain dictionaries: nothing is validated per token.
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
from serving.answer import Answer
from serving.auth import Caller, caller
from serving.described import body
from serving.envelope import PASSING, as_request_error

router = APIRouter()
log = structlog.get_logger()
T = TypeVar("T")


@router.post("/v1/chat/completions", openapi_extra=body("/v1/chat/completions", ChatRequest))
async def chat_completions(request: Request) -> Response:
    found = await caller(request)
    chat = parse_chat(decode(await request.body()))
    answer = Answer(request.app.state, found, chat)
    structlog.contextvars.bind_contextvars(policy=answer.choice.policy, completion=answer.id)
    return _Answering(answer, chat, request.app.state.metrics)


@router.get("/v1/models")
async def models(request: Request, caller: Annotated[Caller, Depends(caller)]) -> dict[str, Any]:
    return {"object": "list", "data": await _models(request.app.state, caller)}


@router.get("/v1/models/{model}")
async def model(request: Request, model: str, caller: Annotated[Caller, Depends(caller)]) -> dict[str, Any]:
    for card in await _models(request.app.state, caller):
        if card["id"] == model:
            return card
    raise NotFound(f"There is no model {model[:64]}.", code="model_not_found", param="model")


async def _models(state: Any, caller: Caller) -> list[dict[str, Any]]:
    """The routed model and, for an admin, each policy that can be pinned."""
    route = state.router.route(caller.project)
    pinnable = [policy for policy in route.policies() if state.fleet.serves(policy)]
    async with state.pool.connection() as connection:
        cursor = await connection.execute(
            "select id, extract(epoch from created_at)::bigint as created from policies"
            " where project = %s and id = any(%s) order by created_at desc",
            [caller.project, pinnable],
        )
        rows = await cursor.fetchall()
    newest = max((row["created"] for row in rows), default=0)
    cards = [{"id": DEFAULT_MODEL, "created": newest}, *(rows if caller.kind == "admin" else [])]
    return [{**card, "object": "model", "owned_by": "hearken"} for card in cards]


class _Answering(Response):
    """Sends an answer, whole or as server-sent events. Errors before its first byte are raised."""

    def __init__(self, answer: Answer, chat: ChatRequest, metrics: Any) -> None:
        super().__init__()
        self._answer = answer
        self._chat = chat
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._chat.stream:
            await _while_connected(receive, self._stream(send))
        elif await _while_connected(receive, self._finish()):
            body = orjson.dumps(self._answer.completion())
            await Response(body, media_type="application/json")(scope, receive, send)

    async def _finish(self) -> bool:
        async with aclosing(self._answer.deltas()) as deltas:
            async for _ in deltas:
                pass
        await self._answer.record()
        return True

    async def _stream(self, send: Send) -> None:
        async with aclosing(chunks(self._answer, self._chat)) as together:
            first = await anext(together)
            headers = [
                (b"content-type", b"text/event-stream; charset=utf-8"),
                (b"cache-control", b"no-store"),
            ]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send(_events(first))
            try:
                async for events in together:
                    await send(_events(events))
            except (RequestError, *PASSING) as error:
                told = as_request_error(error)
                detail = str(error).splitlines()[:1]
                log.error("stream_broke", error=type(error).__name__, code=told.code, detail=detail)
                self._metrics.refused.labels(told.code).inc()
                await send(_events([told.envelope()]))
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})


async def chunks(answer: Answer, chat: ChatRequest) -> AsyncGenerator[list[dict[str, Any]]]:
    """OpenAI's chunks, those together that came together: whoever listens wakes once. The one that ends the
    last choice waits until the turn is durable, and carries the `hearken` field; so does the chunk of the
    usage, when that was asked for."""
    head = answer.head("chat.completion.chunk")
    usage = {"usage": None} if chat.stream_options and chat.stream_options.include_usage else {}

    def chunk(index: int, delta: dict[str, Any], logprobs: Any, finish: str | None) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return {**head, "choices": [choice], **usage}

    spoken: set[int] = set()
    waiting: dict[str, Any] | None = None
    async with aclosing(answer.deltas()) as deltas:
        async for delta in deltas:
            found = []
            if delta.choice not in spoken:
                spoken.add(delta.choice)
                found.append(chunk(delta.choice, {"role": "assistant", "content": ""}, None, None))
            if delta.text or chat.logprobs:
                logprobs = answer.logprobs(delta.logprobs)
                found.append(chunk(delta.choice, {"content": delta.text}, logprobs, None))
            if delta.finish_reason:
                if waiting is not None:
                    found.append(waiting)
                waiting = chunk(delta.choice, {}, None, delta.finish_reason)
            if found:
                yield found
    await answer.record()
    extension = {"hearken": answer.extension()}
    last = [{**(waiting or {**head, "choices": []}), **extension}]
    if usage:
        last.append({**head, "choices": [], "usage": answer.usage(), **extension})
    yield last


def _events(bodies: list[dict[str, Any]]) -> dict[str, Any]:
    body = b"".join(b"data: " + orjson.dumps(each) + b"\n\n" for each in bodies)
    return {"type": "http.response.body", "body": body, "more_body": True}


async def _while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """Do `work`, but give it up as soon as the client has hung up, and then return None."""

    async def hang_up() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(hang_up())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        log.info("client_gone")
        return None
    finally:
        waiting.cancel()
        if working.cancel():
            await asyncio.wait({working})
