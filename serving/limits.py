"""What one client may take: bytes of a body, requests of a minute. Plain ASGI, so streams pass untouched."""

import math
import time

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from schemas.errors import RateLimited, TooLarge

_MOST_BUCKETS = 10_000


class Limiter:
    """A token bucket per key: a minute's allowance at once, then `per_minute` / 60 a second."""

    def __init__(self, per_minute: int) -> None:
        self._capacity = float(per_minute)
        self._buckets: dict[str, tuple[float, float]] = {}  # key -> (tokens left, when)

    def take(self, key: str) -> None:
        """Raises RateLimited, saying when one more request fits."""
        now = time.monotonic()
        left, when = self._buckets.get(key, (self._capacity, now))
        left = min(self._capacity, left + (now - when) * self._capacity / 60)
        if left < 1:
            wait = math.ceil((1 - left) * 60 / self._capacity)
            raise RateLimited(
                f"More than {self._capacity:.0f} requests a minute; try again in {wait} s.", retry_after=wait
            )
        if len(self._buckets) >= _MOST_BUCKETS:
            self._forget(now)
        self._buckets[key] = (left - 1, now)

    def _forget(self, now: float) -> None:
        """Drop the buckets that are full again, which is how every bucket starts."""
        rate = self._capacity / 60
        self._buckets = {
            key: (left, when)
            for key, (left, when) in self._buckets.items()
            if left + (now - when) * rate < self._capacity
        }


class BodyLimit:
    """Refuses bodies over `limit` bytes, announced or not. Raises TooLarge where the body is read."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Request(scope).headers.get("content-length", "")
        too_large = TooLarge(f"The body is over {self._limit} bytes.")
        size = 0

        async def counted() -> Message:
            nonlocal size
            if announced.isdecimal() and int(announced) > self._limit:
                raise too_large
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._limit:
                raise too_large
            return message

        await self._app(scope, counted, send)
