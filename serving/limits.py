"""What one client may take: bytes of a body, requests of a minute, connections for as long as it reads. Plain
ASGI, so streams pass untouched."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import LiteralString

import psycopg
from psycopg_pool import PoolTimeout
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from schemas.database import AsyncPool
from schemas.errors import RateLimited, TooLarge

_MOST_BUCKETS = 10_000
_SHARING = 1.0  # seconds between exchanges: for so long replicas do not know of each other's requests
_IDLE = "1 hour"
_BUSY = 10  # seconds until one of few may have ended

_EXCHANGE: LiteralString = """
insert into rate_limit_usage as known (key, total)
select key, count from unnest(%s::text[], %s::bigint[]) as own (key, count)
on conflict (key) do update set total = known.total + excluded.total, updated_at = now()
returning key, total
"""


class Limiter:
    """A token bucket per key: a minute's allowance at once, then `per_minute` / 60 a second, for all replicas
    together. Each decides by itself, at once, and they exchange what they let pass."""

    def __init__(self, per_minute: int) -> None:
        self._capacity = float(per_minute)
        self._buckets: dict[str, tuple[float, float]] = {}  # key -> (tokens left, when)
        self._unshared: Counter[str] = Counter()
        self._totals: dict[str, int] = {}
        self._held: Counter[str] = Counter()

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
        self._unshared[key] += 1

    @contextmanager
    def hold(self, what: str, most: int) -> Iterator[None]:
        """While one of them goes on; this process does at most so many at once. Raises RateLimited."""
        if self._held[what] >= most:
            raise RateLimited(f"{most} {what} are running; try again in {_BUSY} s.", retry_after=_BUSY)
        self._held[what] += 1
        try:
            yield
        finally:
            self._held[what] -= 1

    async def run(self, pool: AsyncPool) -> None:
        """Exchange until cancelled. While the database is away each replica limits by what it knows."""
        while True:
            await asyncio.sleep(_SHARING)
            with suppress(psycopg.OperationalError, PoolTimeout):
                await self.share(pool)

    async def share(self, pool: AsyncPool) -> None:
        """Tell the other replicas of our requests, and take theirs off the buckets that we have open."""
        own = {key: self._unshared[key] for key in sorted(self._buckets.keys() | self._unshared.keys())}
        if not own:
            return
        async with pool.connection() as connection:
            cursor = await connection.execute(_EXCHANGE, [list(own), list(own.values())])
            totals = {row["key"]: row["total"] for row in await cursor.fetchall()}
            await connection.execute(
                "delete from rate_limit_usage where updated_at < now() - %s::interval", [_IDLE]
            )
        now = time.monotonic()
        for key, total in totals.items():
            others = total - own[key] - self._totals.get(key, total - own[key])
            left, when = self._buckets.get(key, (self._capacity, now))
            self._buckets[key] = (left - others, when)
        self._unshared -= Counter(own)
        self._forget(now)
        self._totals = {key: total for key, total in totals.items() if key in self._buckets}

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
