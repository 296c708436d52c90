"""Limits per client: token buckets for requests, a concurrency limit for exports, and a body size limit.

The body limit is plain ASGI, so streams pass through it unbuffered.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal, LiteralString, NamedTuple

import psycopg
from psycopg_pool import PoolTimeout
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from schemas.database import AsyncPool
from schemas.errors import RateLimited, TooLarge, TooSlow

BODY_SECONDS = 60.0
"""Seconds in which a body must be whole."""

_MAX_BUCKETS = 10_000
_SYNC_INTERVAL = 1.0  # seconds; for so long replicas do not know of each other's requests
_EXPIRY = "1 hour"
_SWEEP_INTERVAL = 60.0  # seconds from one removal of idle keys to the next, which reads all of them
_BUSY_RETRY = 10  # seconds after which a client tries again where too many run at once

_SYNC: LiteralString = """
insert into rate_limit_usage as known (key, total)
select key, count from unnest(%s::text[], %s::bigint[]) as own (key, count)
on conflict (key) do update set total = known.total + excluded.total, updated_at = now()
returning key, total
"""


@dataclass(frozen=True, slots=True)
class Charge:
    """What a request takes from one token bucket: `count` tokens of the bucket `key`, which holds `most` and
    is refilled at `most` a minute or an hour (`period`). `limit` names both in a message, as in "chats from
    one address"."""

    key: str
    limit: str
    most: int
    count: int = 1
    period: Literal["a minute", "an hour"] = "a minute"

    @property
    def per_second(self) -> float:
        return self.most / (60 if self.period == "a minute" else 3600)


class _Bucket(NamedTuple):
    left: float
    at: float
    most: int
    per_second: float

    def left_at(self, now: float) -> float:
        """Returns how many tokens are in it, were there no `most`."""
        return self.left + (now - self.at) * self.per_second


class RateLimiter:
    """Token buckets that all replicas share. Each replica decides alone, and they exchange their counts every
    second."""

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}
        self._unsynced: Counter[str] = Counter()
        self._totals: dict[str, int] = {}
        self._running: Counter[tuple[str, str]] = Counter()

    def acquire(self, *charges: Charge) -> None:
        """Takes the tokens of all charges. Raises RateLimited, with the time until they are there, when one
        bucket lacks them, and then takes none. What is more than a whole bucket needs a full one, which is
        then in debt. A charge of no token waits for the end of a debt."""
        now = time.monotonic()
        for charge in charges:
            lacking = min(charge.count, charge.most) - self._left(charge, now)
            if lacking > 0:
                wait = math.ceil(lacking / charge.per_second)
                raise RateLimited(
                    f"More than {charge.most} {charge.limit} {charge.period}; try again in {wait} s.",
                    retry_after=wait,
                )
        self.spend(*charges)

    def spend(self, *charges: Charge) -> None:
        """Takes the tokens of charges whose count was not known before; a bucket may then be in debt."""
        now = time.monotonic()
        if len(self._buckets) >= _MAX_BUCKETS:
            self._drop_full_buckets(now)
        for charge in charges:
            left = self._left(charge, now) - charge.count
            self._buckets[charge.key] = _Bucket(left, now, charge.most, charge.per_second)
            self._unsynced[charge.key] += charge.count

    def _left(self, charge: Charge, now: float) -> float:
        """Returns how many tokens are in the bucket of a charge."""
        bucket = self._buckets.get(charge.key)
        if bucket is None:
            return charge.most
        return min(charge.most, bucket.left + (now - bucket.at) * charge.per_second)

    @contextmanager
    def concurrently(self, what: str, limit: int, *, of: str = "") -> Iterator[None]:
        """Counts one running `what` of this process, and of a client. Raises RateLimited when `limit` are
        running."""
        if self._running[what, of] >= limit:
            raise RateLimited(
                f"{limit} {what} are running; try again in {_BUSY_RETRY} s.", retry_after=_BUSY_RETRY
            )
        self._running[what, of] += 1
        try:
            yield
        finally:
            self._running[what, of] -= 1
            if not self._running[what, of]:
                del self._running[what, of]

    async def run(self, pool: AsyncPool) -> None:
        """Syncs until cancelled. While the database is away each replica limits by its own counts."""
        swept = time.monotonic()
        while True:
            await asyncio.sleep(_SYNC_INTERVAL)
            with suppress(psycopg.OperationalError, PoolTimeout):
                await self.sync(pool)
                if time.monotonic() - swept >= _SWEEP_INTERVAL:
                    swept = time.monotonic()
                    await self.sweep(pool)

    async def sync(self, pool: AsyncPool) -> None:
        """Adds this replica's requests to the shared totals, and takes the others' off its buckets."""
        own = {key: self._unsynced[key] for key in sorted(self._buckets.keys() | self._unsynced.keys())}
        if not own:
            return
        async with pool.connection() as connection:
            cursor = await connection.execute(_SYNC, [list(own), list(own.values())])
            totals = {row["key"]: row["total"] for row in await cursor.fetchall()}
        now = time.monotonic()
        for key, total in totals.items():
            others = total - own[key] - self._totals.get(key, total - own[key])
            if key in self._buckets:
                bucket = self._buckets[key]
                self._buckets[key] = bucket._replace(left=bucket.left - others)
        self._unsynced -= Counter(own)
        self._drop_full_buckets(now)
        self._totals = {key: total for key, total in totals.items() if key in self._buckets}

    async def sweep(self, pool: AsyncPool) -> None:
        """Removes the shared totals of keys that nobody has used for _EXPIRY."""
        async with pool.connection() as connection:
            await connection.execute(
                "delete from rate_limit_usage where updated_at < now() - %s::interval", [_EXPIRY]
            )

    def _drop_full_buckets(self, now: float) -> None:
        """Drops the buckets that are full again, as a missing bucket counts as full."""
        self._buckets = {
            key: bucket for key, bucket in self._buckets.items() if bucket.left_at(now) < bucket.most
        }


class TokenBucket:
    """A token bucket of one connection: `capacity` tokens, refilled at `per_second`."""

    def __init__(self, capacity: int, per_second: float) -> None:
        self._capacity = self._left = float(capacity)
        self._per_second = per_second
        self._at = time.monotonic()

    def take(self) -> bool:
        """Takes one token; returns whether there was one."""
        now = time.monotonic()
        self._left = min(self._capacity, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class BodyLimit:
    """ASGI middleware that refuses bodies over `limit` bytes, and those that take longer than BODY_SECONDS.
    Raises TooLarge and TooSlow where the body is read."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        content_length = Request(scope).headers.get("content-length", "")
        too_large = TooLarge(f"The body is over {self._limit} bytes.")
        size, whole, deadline = 0, False, time.monotonic() + BODY_SECONDS

        async def counted() -> Message:
            nonlocal size, whole
            if whole:
                return await receive()
            if content_length.isdecimal() and int(content_length) > self._limit:
                raise too_large
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                raise TooSlow(f"The body did not come within {BODY_SECONDS:.0f} seconds.") from None
            whole = not message.get("more_body", False)
            size += len(message.get("body", b""))
            if size > self._limit:
                raise too_large
            return message

        await self._app(scope, counted, send)
