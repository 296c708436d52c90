"""How long things are kept: partitions for the turns to come, and an end for what is old.

Turns lie in weekly partitions, and a week that is over goes with its replies and with the votes on them. What
the trainer derived from those votes holds no text and stays; without their turns it learns from them no more.
An answer kept for an Idempotency-Key is forgotten sooner: nobody retries for that long.
"""

import asyncio
from typing import LiteralString

import psycopg
import structlog
from psycopg_pool import PoolTimeout

from schemas.database import AsyncPool

log = structlog.get_logger()

EVERY = 600.0
"""Seconds between two looks."""
WEEKS_AHEAD = 8
IDEMPOTENCY_DAYS = 7

# Any constant, as long as it never changes: one replica at a time, and the others need not.
_LOCK = 0x4845_4B45


async def run(pool: AsyncPool, retention_days: int | None) -> None:
    """Keep house until cancelled; what cannot be done now is done at the next look."""
    while True:
        try:
            await keep_house(pool, retention_days)
        except (psycopg.Error, PoolTimeout) as error:
            log.warning("housekeeping_waits", error=type(error).__name__, detail=str(error).splitlines()[:1])
        await asyncio.sleep(EVERY)


async def keep_house(pool: AsyncPool, retention_days: int | None) -> None:
    """Add the weeks to come and drop those that ended `retention_days` ago; None drops none.

    Raises psycopg.OperationalError where it would have to wait for others.
    """
    await _alone(pool, "select add_turn_weeks(now() + %s * interval '168 hours')", WEEKS_AHEAD)
    await _alone(
        pool, "delete from idempotency where created_at < now() - %s * interval '24 hours'", IDEMPOTENCY_DAYS
    )
    if retention_days is not None:
        await _alone(pool, "select drop_turn_weeks(now() - %s * interval '24 hours')", retention_days)


async def _alone(pool: AsyncPool, statement: LiteralString, value: int) -> None:
    """A statement that may take long, in a transaction; nothing while another replica is at it."""
    async with pool.connection() as connection, connection.transaction():
        cursor = await connection.execute("select pg_try_advisory_xact_lock(%s) as ours", [_LOCK])
        row = await cursor.fetchone()
        if row is not None and row["ours"]:
            await connection.execute("set local statement_timeout = 0")
            await connection.execute(statement, [value])
