"""The sender of webhooks: a process claims an endpoint for a while and sends what waits for it, one delivery
after another, so that a slow endpoint holds up no other.

A delivery succeeds by a status of 2xx and is marked once, with that. Otherwise it is tried again with
exponential backoff, ATTEMPTS times, and the whole endpoint pauses; one that is gone (410), or failed for
DISABLED_AFTER, is disabled. Whoever dies between an answer and its mark leaves a delivery that is sent again,
under the same id, by which receivers know it.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Literal, LiteralString, NamedTuple

import aiohttp
import psycopg
import structlog
from psycopg.rows import DictRow
from psycopg_pool import PoolTimeout

from feedback.webhook_events import write_deliveries
from feedback.webhook_target import TargetResolver, Targets
from schemas.database import AsyncPool
from schemas.errors import RequestError
from schemas.webhooks import signed_headers

INTERVAL = 1.0
"""Seconds between two looks for what is due."""
ENDPOINTS = 32
"""Endpoints to which one process sends at once."""
TURN = 30.0
"""Seconds after which an endpoint that still has deliveries is left to whoever looks next."""
TIMEOUT = 15.0
"""Seconds in which a receiver has to answer."""
LEASE = 120.0
"""Seconds after which the endpoint of a process that died is free again."""
BACKOFF = (5, 30, 120, 600, 1_800, 3_600, 7_200, 14_400, 28_800)
"""Seconds to wait after each failed attempt; after one more, a delivery is given up."""
ATTEMPTS = len(BACKOFF) + 1
LONGEST_PAUSE = 600
"""Seconds that a failing endpoint pauses at most, unless it asks for more."""
LONGEST_ASKED = 3_600
"""Seconds of a receiver's `Retry-After` that are heeded."""
DISABLED_AFTER = timedelta(days=5)
"""Time of nothing but failures after which an endpoint is disabled."""

Outcome = Literal["delivered", "retried", "failed"]
log = structlog.get_logger()

_CLAIM: LiteralString = """
update webhook_endpoints set claimed_until = now() + %(lease)s * interval '1 second' where id in (
    select id from webhook_endpoints where due_at <= now() and claimed_until <= now() and disabled_at is null
    order by due_at limit %(most)s for no key update skip locked
) returning id, url, secret
"""
_DUE: LiteralString = """
select id, payload, attempts from webhook_deliveries where endpoint = %s and due_at <= now()
order by due_at, id limit 20
"""
_SETTLE: LiteralString = """
update webhook_deliveries set attempts = %(attempts)s, due_at = %(due_at)s, status = %(status)s,
    error = %(error)s, delivered_at = case when %(delivered)s then now() end
where id = %(id)s and due_at is not null
"""
_SUCCEEDED: LiteralString = """
update webhook_endpoints set failures = 0, failing_since = null where id = %s and failures > 0
"""
_FAILED: LiteralString = """
update webhook_endpoints set failures = failures + 1, failing_since = coalesce(failing_since, now()),
    disabled_at = case when %(gone)s or failing_since < now() - %(patience)s then now() end
where id = %(id)s returning failures, disabled_at
"""
# Waits for who is writing deliveries of the endpoint, so that none is left without anybody to send it.
_LOCK: LiteralString = "select from webhook_endpoints where id = %s for update"
_RELEASE: LiteralString = """
update webhook_endpoints set claimed_until = '-infinity', due_at = case when waiting is not null
    then greatest(waiting, now() + %(pause)s * interval '1 second') end
from (
    select min(due_at) as waiting from webhook_deliveries where endpoint = %(id)s and due_at is not null
) as next where id = %(id)s
"""


class _Answer(NamedTuple):
    """What came of an attempt: a status, or an error that kept one from coming."""

    status: int | None
    error: str | None
    retry_after: float = 0

    @property
    def delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


class WebhookSender:
    """Sends webhooks to `targets`; `count` hears of the outcome of each attempt."""

    def __init__(self, pool: AsyncPool, targets: Targets, count: Callable[[Outcome], None]) -> None:
        self._pool = pool
        self._targets = targets
        self._count = count

    async def run(self) -> None:
        """Writes deliveries and sends them, until cancelled."""
        async with _session(self._targets, "https") as https, _session(self._targets, "http") as http:
            sessions = {"https": https, "http": http}
            sending: set[asyncio.Task[None]] = set()
            try:
                while True:
                    if not await self._look(sessions, sending):
                        await asyncio.sleep(INTERVAL)
            finally:
                for task in sending:
                    task.cancel()
                await asyncio.gather(*sending, return_exceptions=True)

    async def _look(
        self, sessions: dict[str, aiohttp.ClientSession], sending: set[asyncio.Task[None]]
    ) -> bool:
        """Writes deliveries and begins to send to endpoints that are due; returns whether more waits."""
        try:
            more = await write_deliveries(self._pool)
            values = {"lease": LEASE, "most": ENDPOINTS - len(sending)}
            async with self._pool.connection() as connection:
                claimed = await (await connection.execute(_CLAIM, values)).fetchall()
        except (psycopg.Error, PoolTimeout) as error:
            log.warning("webhooks_failed", error=type(error).__name__, detail=str(error)[:500])
            return False
        for endpoint in claimed:
            task = asyncio.create_task(self._send_all(sessions, endpoint))
            sending.add(task)
            task.add_done_callback(sending.discard)
        return more

    async def _send_all(self, sessions: dict[str, aiohttp.ClientSession], endpoint: DictRow) -> None:
        """Sends what is due at a claimed endpoint until an attempt fails or TURN is over, and releases it."""
        session = sessions[endpoint["url"].partition(":")[0].lower()]
        until, pause = time.monotonic() + TURN, 0.0
        try:
            while not pause and time.monotonic() < until:
                async with self._pool.connection() as connection:
                    due = await (await connection.execute(_DUE, [endpoint["id"]])).fetchall()
                if not due:
                    break
                for delivery in due:
                    answer = await self._post(session, endpoint, delivery)
                    pause = await self._settle(endpoint["id"], delivery, answer)
                    if pause or time.monotonic() > until:
                        break
            async with self._pool.connection() as connection, connection.transaction():
                await connection.execute(_LOCK, [endpoint["id"]])
                await connection.execute(_RELEASE, {"id": endpoint["id"], "pause": pause})
        except (psycopg.Error, PoolTimeout) as error:
            log.warning("webhooks_failed", error=type(error).__name__, detail=str(error)[:500])

    async def _post(self, session: aiohttp.ClientSession, endpoint: DictRow, delivery: DictRow) -> _Answer:
        url, payload = endpoint["url"], delivery["payload"]
        headers = signed_headers(endpoint["secret"], delivery["id"], datetime.now(UTC), payload)
        try:
            self._targets.check(url)  # the networks that are allowed may be others now
            async with session.post(
                url, data=payload.encode(), headers=headers, allow_redirects=False
            ) as response:
                return _Answer(response.status, None, _seconds(response.headers.get("Retry-After", "")))
        except TimeoutError:
            return _Answer(None, f"no answer within {TIMEOUT:.0f} seconds")
        except (aiohttp.ClientError, OSError, ValueError, RequestError) as error:
            return _Answer(None, (str(error) or type(error).__name__)[:200])

    async def _settle(self, endpoint: str, delivery: DictRow, answer: _Answer) -> float:
        """Stores what came of an attempt; returns the seconds that the endpoint pauses."""
        attempts = delivery["attempts"] + 1
        again = not answer.delivered and attempts < ATTEMPTS
        values = {
            "id": delivery["id"],
            "attempts": attempts,
            "due_at": datetime.now(UTC) + timedelta(seconds=BACKOFF[attempts - 1]) if again else None,
            "status": answer.status,
            "error": answer.error or (None if answer.delivered else f"status {answer.status}"),
            "delivered": answer.delivered,
        }
        self._count("delivered" if answer.delivered else "retried" if again else "failed")
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute(_SETTLE, values)
            if answer.delivered:
                await connection.execute(_SUCCEEDED, [endpoint])
                return 0
            failed = {"id": endpoint, "gone": answer.status == 410, "patience": DISABLED_AFTER}
            row = await (await connection.execute(_FAILED, failed)).fetchone()
        if row is None:  # it was deleted meanwhile
            return 1
        if row["disabled_at"] is not None:
            log.warning("webhook_disabled", webhook=endpoint, status=answer.status, error=answer.error)
        pause: float = min(5.0 * 2.0 ** min(row["failures"] - 1, 16), LONGEST_PAUSE)
        return max(pause, answer.retry_after)


def _session(targets: Targets, scheme: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=TargetResolver(targets, scheme), limit=ENDPOINTS),
        timeout=aiohttp.ClientTimeout(total=TIMEOUT),
        headers={"Content-Type": "application/json", "User-Agent": "Hearken"},
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def _seconds(retry_after: str) -> float:
    return min(float(retry_after), LONGEST_ASKED) if retry_after.isdecimal() else 0.0
