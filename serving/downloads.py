"""A download is a response that is read from Postgres while its client reads it.

It holds a database connection for as long, so a process gives few at once, and ends one whose client stops
reading.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from serving.limits import RateLimiter

MAX_DOWNLOADS = 3
"""Downloads at once in one process."""

MAX_OF_PROJECT = 2
"""Those of one project: another one's are not kept away by clients that read slowly."""

READ_TIMEOUT = 60.0
"""Seconds for a client to read the next part of its download, after which it is disconnected."""


class Download(StreamingResponse):
    """A bounded download of a project. Raises RateLimited while MAX_DOWNLOADS are running, or MAX_OF_PROJECT
    of its own, and ClientDisconnect when the client has not read the next part within READ_TIMEOUT."""

    def __init__(
        self,
        limiter: RateLimiter,
        project: str,
        parts: AsyncGenerator[str | bytes],
        media_type: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._limiter = limiter
        self._project = project
        self._parts = parts
        super().__init__(parts, media_type=media_type, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(READ_TIMEOUT):
                    await send(message)
            except TimeoutError:
                raise ClientDisconnect from None

        own = self._limiter.concurrently("exports of this project", MAX_OF_PROJECT, of=self._project)
        with own, self._limiter.concurrently("exports", MAX_DOWNLOADS):
            async with aclosing(self._parts):
                await super().__call__(scope, receive, send_in_time)
