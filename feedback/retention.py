"""Retention drops old weekly partitions of turns, and creates the coming ones.

A week is dropped with its replies and the votes on them. A project that keeps its turns for less time than
the installation has them deleted by their age, in batches. The training examples derived from those votes
hold no text and stay, but without their turns the trainer no longer learns from them. Responses stored for an
Idempotency-Key are deleted sooner: clients do not retry for that long. A rater in quarantine is forgotten
with the last of their votes, and so are the weights of a person's tastes; failed requests at the age of
turns. Rows are deleted in batches and weeks dropped one by one, each in a transaction of its own, with
pauses, so chats and votes hardly wait for it.
"""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

import psycopg
import structlog
from psycopg_pool import PoolTimeout

from feedback.webhooks import KEPT_DAYS, time_bound
from schemas.database import AsyncPool

log = structlog.get_logger()

INTERVAL = 600.0
"""Seconds between two runs."""
WEEKS_AHEAD = 8
"""Partitions that exist in advance, weeks."""
IDEMPOTENCY_DAYS = 7
"""Age at which stored responses are deleted, days."""
BATCH = 50
"""Turns whose votes are deleted in one transaction, or rows."""

# The advisory lock of maintenance: one replica runs it at a time, the others skip it. It must never change.
_LOCK = 0x4845_4B45

_OLD_RESPONSES: LiteralString = """
with old as (
    select project, key_id, key from idempotency
    where created_at < now() - %(days)s * interval '24 hours' limit %(most)s
)
delete from idempotency using old
where (idempotency.project, idempotency.key_id, idempotency.key) = (old.project, old.key_id, old.key)
returning 1 as found
"""
_ENDED_VOTES: LiteralString = """
with ended as (
    select distinct turn_id from feedback
    where turn_id > %(after)s and turn_id < ended_turns_bound(now() - %(days)s * interval '24 hours')
    order by turn_id limit %(most)s
), gone as (
    delete from feedback using ended where feedback.turn_id = ended.turn_id
)
select max(turn_id) as found from ended
"""
_UNDATED_TURNS: LiteralString = """
with old as (
    select id from turns_undated where created_at < now() - %(days)s * interval '24 hours' limit %(most)s
)
delete from turns_undated using old where turns_undated.id = old.id returning 1 as found
"""
_OLD_TURNS_OF_PROJECTS: LiteralString = """
with old as (
    select turns_of.id from projects p, lateral (
        select id from turns
        where project = p.id and created_at < now() - p.retention_days * interval '24 hours'
        order by created_at limit %(most)s
    ) as turns_of where p.retention_days is not null limit %(most)s
)
delete from turns where id = any(array(select id from old)) returning 1 as found
"""
_OLD_DELIVERIES: LiteralString = """
with old as (select id from webhook_deliveries where id < %(bound)s order by id limit %(most)s)
delete from webhook_deliveries using old where webhook_deliveries.id = old.id returning 1 as found
"""
_PAST_RATERS: LiteralString = """
with past as (
    select project, rater from quarantine q join projects p on p.id = q.project
    where coalesce(q.decided_at, q.created_at)
            < now() - least(p.retention_days, %(days)s::integer) * interval '24 hours'
        and not exists (select from feedback where project = q.project and rater = q.rater)
    limit %(most)s
)
delete from quarantine using past
where (quarantine.project, quarantine.rater) = (past.project, past.rater) returning 1 as found
"""
_PAST_TASTES: LiteralString = """
with past as (
    select t.project, t.rater, t.policy from person_tastes t join projects p on p.id = t.project
    where coalesce(p.retention_days, %(days)s::integer) is not null
        and not exists (select from feedback where project = t.project and rater = t.rater)
    limit %(most)s
)
delete from person_tastes using past
where (person_tastes.project, person_tastes.rater, person_tastes.policy)
    = (past.project, past.rater, past.policy)
returning 1 as found
"""
_OLD_FAILURES: LiteralString = """
delete from rollout_failures where ctid = any(array(
    select f.ctid from projects p join rollout_failures f on f.project = p.id
    where f.created_at < now() - least(p.retention_days, %(days)s::integer) * interval '24 hours'
    limit %(most)s
)) returning 1 as found
"""
_ENDED_WEEK: LiteralString = "select drop_turn_week(now() - %(days)s * interval '24 hours') as found"


async def run(pool: AsyncPool, retention_days: int | None) -> None:
    """Run maintenance until cancelled; a run that fails is repeated at the next interval."""
    while True:
        try:
            await run_maintenance(pool, retention_days)
        except (psycopg.Error, PoolTimeout) as error:
            log.warning("maintenance_failed", error=type(error).__name__, detail=str(error).splitlines()[:1])
        await asyncio.sleep(INTERVAL)


async def run_maintenance(pool: AsyncPool, retention_days: int | None) -> None:
    """Create the coming weeks and drop those that ended `retention_days` ago; None drops none. Turns of a
    project that has a retention of its own are deleted at that age.

    Raises psycopg.OperationalError where it would have to wait for a lock.
    """
    await _alone(pool, "select add_turn_weeks(now() + %(weeks)s * interval '168 hours')", weeks=WEEKS_AHEAD)
    await _repeat(pool, _OLD_RESPONSES, days=IDEMPOTENCY_DAYS, most=BATCH)
    kept_since = time_bound(datetime.now(UTC) - timedelta(days=KEPT_DAYS))
    await _repeat(pool, _OLD_DELIVERIES, bound=kept_since, most=BATCH)
    if retention_days is not None:
        before_all = "chatcmpl-t"  # the ids of turns that have a week
        await _repeat(pool, _ENDED_VOTES, days=retention_days, most=BATCH, after=before_all)
        await _repeat(pool, _ENDED_WEEK, days=retention_days)
        await _repeat(pool, _UNDATED_TURNS, days=retention_days, most=BATCH)
    await _repeat(pool, _OLD_TURNS_OF_PROJECTS, most=BATCH)
    for statement in (_PAST_RATERS, _PAST_TASTES, _OLD_FAILURES):
        await _repeat(pool, statement, days=retention_days, most=BATCH)


async def _repeat(pool: AsyncPool, statement: LiteralString, **values: object) -> None:
    """Run a statement until it finds nothing, a quarter of the time; `after` is what it found before."""
    while True:
        began = time.monotonic()
        found = await _alone(pool, statement, **values)
        if not found:
            return
        values["after"] = found
        await asyncio.sleep(3 * (time.monotonic() - began))


async def _alone(pool: AsyncPool, statement: LiteralString, **values: object) -> Any:
    """Run a statement in a transaction, unless another replica holds the lock; return the first `found`."""
    async with pool.connection() as connection, connection.transaction():
        cursor = await connection.execute("select pg_try_advisory_xact_lock(%s) as ours", [_LOCK])
        row = await cursor.fetchone()
        if row is None or not row["ours"]:
            return None
        row = await (await connection.execute(statement, values)).fetchone()
        return row.get("found") if row else None
