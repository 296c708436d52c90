"""Retention drops old weekly partitions of turns, and creates the coming ones.

A week is dropped with its replies and the votes on them. The training examples derived from those votes hold
no text and stay, but without their turns the trainer no longer learns from them. Responses stored for an
Idempotency-Key are deleted sooner: clients do not retry for that long.
"""

import asyncio
from typing import LiteralString

import psycopg
import structlog
from psycopg_pool import PoolTimeout

from schemas.database import AsyncPool

log = structlog.get_logger()

INTERVAL = 600.0
"""Seconds between two runs."""
WEEKS_AHEAD = 8
"""Partitions that exist in advance, weeks."""
IDEMPOTENCY_DAYS = 7
"""Age at which stored responses are deleted, days."""

# The advisory lock of maintenance: one replica runs it at a time, the others skip it. It must never change.
_LOCK = 0x4845_4B45


async def run(pool: AsyncPool, retention_days: int | None) -> None:
    """Run maintenance until cancelled; a run that fails is repeated at the next interval."""
    while True:
        try:
            await run_maintenance(pool, retention_days)
        except (psycopg.Error, PoolTimeout) as error:
            log.warning("maintenance_failed", error=type(error).__name__, detail=str(error).splitlines()[:1])
        await asyncio.sleep(INTERVAL)


async def run_maintenance(pool: AsyncPool, retention_days: int | None) -> None:
    """Create the coming weeks and drop those that ended `retention_days` ago; None drops none.

    Raises psycopg.OperationalError where it would have to wait for a lock.
    """
    await _alone(pool, "select add_turn_weeks(now() + %s * interval '168 hours')", WEEKS_AHEAD)
    await _alone(
        pool, "delete from idempotency where created_at < now() - %s * interval '24 hours'", IDEMPOTENCY_DAYS
    )
    if retention_days is not None:
        await _alone(pool, "select drop_turn_weeks(now() - %s * interval '24 hours')", retention_days)


async def _alone(pool: AsyncPool, statement: LiteralString, value: int) -> None:
    """Run a long statement in a transaction, unless another replica holds the lock."""
    async with pool.connection() as connection, connection.transaction():
        cursor = await connection.execute("select pg_try_advisory_xact_lock(%s) as ours", [_LOCK])
        row = await cursor.fetchone()
        if row is not None and row["ours"]:
            await connection.execute("set local statement_timeout = 0")
            await connection.execute(statement, [value])
