"""A completion is sent whole, or as a stream with keep-alives; both have write deadlines, and end with their
clients."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any, TypeVar

import orjson
import structlog
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from schemas.errors import RequestError
from schemas.wire import json_line
from serving.completion import Completion
from serving.error_handlers import TRANSIENT_ERRORS, to_request_error
from serving.metrics import Metrics

T = TypeVar("T")
log = structlog.get_logger()

KEEP_ALIVE_SECONDS = 15.0
"""Seconds between comments on a stream: proxies give up after 60 without a byte."""

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
]

WRITE_SECONDS = 30.0
"""Seconds that a client may take to read what is sent; then its connection is closed."""


def with_deadline(send: Send) -> Send:
    """Returns `send`, which then raises TimeoutError when a client has not read for WRITE_SECONDS, and
    ClientDisconnect when its connection is closed, which uvicorn does not tell pipelined requests."""

    async def bounded(message: Message) -> None:
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await send(message)
        except RuntimeError:
            raise ClientDisconnect from None

    return bounded


async def keep_alive(send: Send) -> None:
    """Sends a comment of server-sent events now and then, until it is cancelled or the client stalls or
    leaves, which whoever sends the events finds too."""
    with suppress(TimeoutError, ClientDisconnect):
        while True:
            await asyncio.sleep(KEEP_ALIVE_SECONDS)
            await send(_body(b": keep-alive\n\n"))


async def whole_events(pieces: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """Yields server-sent events whole, where sockets tear them: a comment may only come between two."""
    rest = b""
    async with aclosing(pieces):
        async for piece in pieces:
            events, end, rest = (rest + piece).rpartition(b"\n\n")
            if end:
                yield events + end
    if rest:
        yield rest


class StreamResponse(Response):
    """Sends the server-sent events that `events` yields. Errors before the first byte are raised; one after
    it is an event that `failure` makes."""

    def __init__(
        self,
        events: AsyncGenerator[bytes] | None,
        metrics: Metrics,
        failure: Callable[[RequestError], bytes] | None = None,
    ) -> None:
        super().__init__()
        self._events = events
        self._metrics = metrics
        self._failure = failure or _failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._answer(scope, receive, with_deadline(send))
        except TimeoutError:
            log.warning("client_stalled", seconds=WRITE_SECONDS)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._events is not None:
            await cancel_on_disconnect(receive, self._stream(self._events, send))

    async def _stream(self, events: AsyncGenerator[bytes], send: Send) -> None:
        """Sends the events. If the first takes long, the response begins without it, so that no proxy between
        gives up."""
        async with aclosing(events):
            first = asyncio.ensure_future(anext(events))
            comments: asyncio.Task[None] | None = None
            try:
                await asyncio.wait({first}, timeout=KEEP_ALIVE_SECONDS)
                if first.done():
                    first.result()
                await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
                comments = asyncio.create_task(keep_alive(send))
                await send(_body(await first))
                async for event in events:
                    await send(_body(event))
            except (RequestError, *TRANSIENT_ERRORS) as error:
                if comments is None:
                    raise
                answer = to_request_error(error)
                detail = str(error).splitlines()[:1]
                log.error("stream_failed", error=type(error).__name__, code=answer.code, detail=detail)
                self._metrics.refused.labels(answer.code).inc()
                await send(_body(self._failure(answer)))
            finally:
                await cancel(first, comments)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class WholeResponse(Response):
    """Sends what `pieces` yield as one JSON body; whoever yields them is stopped when the client leaves."""

    def __init__(self, pieces: AsyncGenerator[bytes]) -> None:
        super().__init__()
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await cancel_on_disconnect(receive, self._read())
        if body is not None:
            await Response(body, media_type="application/json")(scope, receive, send)

    async def _read(self) -> bytes:
        async with aclosing(self._pieces):
            return b"".join([piece async for piece in self._pieces])


class CompletionResponse(StreamResponse):
    """Sends a completion, whole or as its events."""

    def __init__(
        self,
        completion: Completion,
        events: AsyncGenerator[bytes] | None,
        metrics: Metrics,
        whole: Callable[[], dict[str, Any]] | None = None,
        failure: Callable[[RequestError], bytes] | None = None,
    ) -> None:
        super().__init__(events, metrics, failure)
        self._completion = completion
        self._whole = whole or completion.response

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._events is not None:
            await super()._answer(scope, receive, send)
        elif await cancel_on_disconnect(receive, self._complete()):
            body = orjson.dumps(self._whole())
            await Response(body, media_type="application/json")(scope, receive, send)

    async def _complete(self) -> bool:
        async with aclosing(self._completion.deltas()) as deltas:
            async for _ in deltas:
                pass
        await self._completion.record()
        return True


def _body(event: bytes) -> Message:
    return {"type": "http.response.body", "body": event, "more_body": True}


def _failure(error: RequestError) -> bytes:
    return b"data: " + json_line(error.envelope()) + b"\n\ndata: [DONE]\n\n"


async def cancel(*tasks: "asyncio.Future[Any] | None") -> None:
    """Cancels the tasks that run, and returns when they have ended."""
    running = {task for task in tasks if task is not None and task.cancel()}
    if running:
        await asyncio.wait(running)


async def cancel_on_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
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
        await cancel(working)
