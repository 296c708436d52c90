"""Streams to clients have write deadlines and keep-alives, and end with their clients."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog
from starlette.types import Message, Receive, Send

T = TypeVar("T")
log = structlog.get_logger()

KEEP_ALIVE_SECONDS = 15.0
"""Seconds between comments on a stream: proxies give up after 60 without a byte."""

WRITE_SECONDS = 30.0
"""Seconds that a client may take to read what is sent; then its connection is closed."""


def with_deadline(send: Send) -> Send:
    """Returns `send`, which then raises TimeoutError when a client has not read for WRITE_SECONDS."""

    async def bounded(message: Message) -> None:
        async with asyncio.timeout(WRITE_SECONDS):
            await send(message)

    return bounded


async def keep_alive(send: Send) -> None:
    """Sends a comment of server-sent events now and then, until it is cancelled."""
    while True:
        await asyncio.sleep(KEEP_ALIVE_SECONDS)
        await send({"type": "http.response.body", "body": b": keep-alive\n\n", "more_body": True})


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
