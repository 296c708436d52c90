"""Erasing deletes the rows of people who asked for it, in batches, and their lines in exported files.

It begins when every transaction that does not know the tombstone has ended, so nothing comes after it: the
same snapshot rule by which the log is read (`feedback.postgres_log`). One process works on an erasure, by an
advisory lock; whoever dies leaves it to the next, as each batch is a transaction and deletes what it finds.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, LiteralString

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb
from psycopg_pool import PoolTimeout

from feedback import erasures, scheduled_export
from feedback.erasures import OWN_STEPS, RESTORE, TRAINER_STEPS, add_step
from schemas import lock_ids
from schemas.database import AsyncPool, connect_async
from schemas.errors import HearkenError
from schemas.feedback import JUDGE
from schemas.settings import Settings
from schemas.times import rfc3339

INTERVAL = 1.0
"""Seconds between two looks for erasures that are not done."""

BATCH = 100
"""Turns, or rows, that one transaction deletes."""

SLICE = 10.0
"""Seconds that one look spends on the rows of one person, so that those of others do not wait for them."""

MOST = 200
"""Erasures that one look takes up."""

Connection = AsyncConnection[DictRow]
log = structlog.get_logger()

# Those that only wait for the trainer are not looked at. It has to do with those of whom there was anything.
_OPEN: LiteralString = """
select id from erasures e
where done_at is null and (
    not steps ?& %s or steps ?& %s or since is null
    or not exists (select from rounds where project = e.project)
)
order by asked_at limit %s
"""
_ONE: LiteralString = """
select e.*, xid < pg_snapshot_xmin(pg_current_snapshot()) as settled,
    since is not null and exists (select from rounds where project = e.project) as trained
from erasures e where id = %s and done_at is null
"""
_LOCK: LiteralString = "select 1 as ours where pg_try_advisory_lock(%s, hashtext(%s))"

# The pseudonyms of those who have these hashes, of the next raters in order.
_RATERS: LiteralString = """
with recursive next (rater) as (
    select min(rater) from {table} where project = %(project)s and rater > %(after)s
    union all
    select (select min(rater) from {table} where project = %(project)s and rater > next.rater)
    from next where next.rater is not null
), batch as (select rater from next where rater is not null limit %(most)s)
select max(rater) as last,
    array_agg(rater) filter (where person_hash(%(project)s, rater) = any(%(hashes)s)) as found
from batch
"""

_TURNS: LiteralString = """
select id from turns
where project = %(project)s and rater = any(%(raters)s) and created_at <= %(until)s limit %(most)s
"""
_VOTED: LiteralString = """
select distinct turn_id as id from feedback
where facets @> array['project:' || %(project)s, 'rater:' || %(rater)s] and rater = %(rater)s
    and created_at <= %(until)s
limit %(most)s
"""
_STALE: LiteralString = """
update exported_files x set stale = true
from feedback f, lateral (
    select project, to_epoch, to_xid, to_id from exported_files
    where project = f.project and (to_epoch, to_xid, to_id) >= (f.epoch, f.xid, f.id)
    order by to_epoch, to_xid, to_id limit 1
) as file
where f.turn_id = any(%(turns)s) and f.rater = any(coalesce(%(of)s, array[f.rater]))
    and (x.project, x.to_epoch, x.to_xid, x.to_id) = (file.project, file.to_epoch, file.to_xid, file.to_id)
"""
# Counts what is deleted, keeps its ids for the trainer, and notes since when it was there and who learned
# from it.
_EXAMPLES: LiteralString = """
with gone as (
    delete from training_examples where {which} returning event_id, type, rater, first_policy, created_at
), noted as (
    insert into erased_ids (project, erasure, id)
    select %(project)s, %(erasure)s, event_id from gone on conflict do nothing
), counted as (
    update erasures set
        votes = votes + (
            select count(*) from gone where type <> 'signal' and not starts_with(rater, %(judge)s)
        ),
        learned_by = array(
            select distinct unnest(
                learned_by || array(select first_policy from gone where first_policy <> '')
            )
        ),
        since = least(since, (select min(created_at) from gone))
    where id = %(erasure)s
)
select count(*) as count from gone
"""
_DELETE_VOTES: LiteralString = """
with gone as (
    delete from feedback where turn_id = any(%(turns)s) and rater = %(rater)s
    returning id, event_id, created_at
), counted as (
    update erasures set since = least(since, (select min(created_at) from gone)) where id = %(erasure)s
)
select array_agg(id) as ids, array_agg(event_id) as events from gone
"""
_DELETE_TURNS: LiteralString = """
with gone as (
    delete from turns where id = any(%(turns)s) returning id, created_at
), noted as (
    insert into erased_ids (project, erasure, id)
    select %(project)s, %(erasure)s, id from gone on conflict do nothing
), counted as (
    update erasures set since = least(since, (select min(created_at) from gone)) where id = %(erasure)s
)
select count(*) as count from gone
"""
_REST: dict[str, LiteralString] = {
    "events": "delete from outbox where id = any(array(select id from outbox"
    " where event ->> 'rater' = any(%(raters)s) limit %(most)s))",
    "dead_letters": "delete from dead_letters where exists"
    " (select from unnest(%(raters)s::text[]) as rater where strpos(payload, rater) > 0)",
    "failures": "delete from rollout_failures where project = %(project)s and rater = any(%(raters)s)",
    "tastes": "delete from person_tastes where project = %(project)s and rater = any(%(raters)s)",
    "quarantine": "delete from quarantine where project = %(project)s and rater = any(%(raters)s)",
    "annotators": "delete from annotation_raters where project = %(project)s and rater = any(%(raters)s)",
}


async def run(settings: Settings, pool: AsyncPool) -> None:
    """Erases until cancelled; what fails is tried again."""
    while True:
        await asyncio.sleep(INTERVAL)
        try:
            async with pool.connection() as connection:
                due = [list(OWN_STEPS), list(TRAINER_STEPS), MOST]
                found = await (await connection.execute(_OPEN, due)).fetchall()
            if found:
                await advance(settings.database_url or "", [row["id"] for row in found])
        except (psycopg.Error, PoolTimeout) as error:
            log.warning("erasing_failed", error=type(error).__name__, detail=str(error).splitlines()[:1])


async def advance(url: str, ids: Sequence[str]) -> None:
    """Does what can be done now for these erasures. Raises psycopg.Error."""
    async with await connect_async(url) as connection:
        for id in ids:
            if await _row(connection, _LOCK, [lock_ids.ERASURE, id]):
                erasure = await _row(connection, _ONE, [id])
                if erasure and erasure["settled"]:
                    try:
                        await _advance(connection, erasure)
                    except (HearkenError, OSError) as error:  # of a file; others need not wait for it
                        log.warning("erasure_postponed", erasure=id, detail=str(error)[:500])
                await connection.execute(
                    "select pg_advisory_unlock(%s, hashtext(%s))", [lock_ids.ERASURE, id]
                )


async def _advance(connection: Connection, erasure: DictRow) -> None:
    id, steps = erasure["id"], erasure["steps"]
    if "database" not in steps and not await _delete_rows(connection, erasure):
        return
    if "exports" not in steps:
        written = await scheduled_export.rewrite(connection, erasure["project"])
        if written is None:  # another process writes a file now
            return
        await add_step(connection, id, "exports", files=written)
    now = await _row(connection, _ONE, [id])
    if now is None:
        return
    needed = (*OWN_STEPS, *(TRAINER_STEPS if now["trained"] else ()))
    if all(step in now["steps"] for step in needed):
        await erasures.finish(connection, now)
        log.info("erased", erasure=id, project=erasure["project"])


async def _delete_rows(connection: Connection, erasure: DictRow) -> bool:
    """Deletes rows for a while; returns whether none is left."""
    raters = erasure["raters"]
    if raters is None:
        raters = await _find_raters(connection, erasure)
    began = erasure["steps"].get("began", {}).get("at")
    if began is None:
        clock = await _row(connection, "select now() as at", [])
        assert clock is not None  # noqa: S101  (a select of one row)
        began = max(clock["at"], datetime.now(UTC))  # turns have the database's time, votes serving's
        await add_step(connection, erasure["id"], "began", at=rfc3339(began))
    until = erasure["asked_at"] if erasure["asked_by"] == RESTORE else began
    work = _Deletion(connection, erasure, raters, until)
    if not await work.run():
        return False
    await add_step(connection, erasure["id"], "database", **work.counts)
    return True


async def _find_raters(connection: Connection, erasure: DictRow) -> list[str]:
    """Returns the pseudonyms that an erasure knows only the hashes of, and stores them with it."""
    found: set[str] = set()
    tables: tuple[LiteralString, ...] = ("turns", "feedback", "training_examples")
    for table in tables:
        after = ""
        while after is not None:
            row = await _row(
                connection, _RATERS.format(table=table),
                {"project": erasure["project"], "hashes": erasure["hashes"], "after": after, "most": 1_000},
            )  # fmt: skip
            assert row is not None  # noqa: S101  (an aggregate gives its row)
            found |= set(row["found"] or ())
            after = row["last"]
    raters = sorted(found)
    await connection.execute("update erasures set raters = %s where id = %s", [raters, erasure["id"]])
    return raters


class _Deletion:
    """The deletion of what is held under these pseudonyms, up to a time; `counts` says how much it was so
    far, whoever did it."""

    def __init__(
        self, connection: Connection, erasure: DictRow, raters: list[str], until: datetime | str
    ) -> None:
        self._connection = connection
        self._values: dict[str, Any] = {
            "erasure": erasure["id"], "project": erasure["project"], "raters": raters, "until": until,
            "most": BATCH, "judge": JUDGE, "of": None,
        }  # fmt: skip
        self._ends = time.monotonic() + SLICE
        kinds = ("turns", "votes", "examples", "answers", "annotations", *_REST)
        self.counts: dict[str, int] = dict.fromkeys(kinds, 0) | erasure["counts"]

    async def run(self) -> bool:
        """Deletes for SLICE seconds; returns whether nothing is left."""
        if not await self._repeat(self._turns):
            return False
        for rater in self._values["raters"]:
            self._values |= {"rater": rater, "of": [rater]}
            if not await self._repeat(self._votes):
                return False
        return await self._repeat(self._examples) and await self._repeat(self._rest)

    async def _repeat(self, batch: Callable[[], Awaitable[bool]]) -> bool:
        """Runs a batch, each in its transaction, half of the time; returns whether it found nothing last."""
        while (began := time.monotonic()) < self._ends:
            async with self._connection.transaction():
                if not await batch():
                    return True
                await self._connection.execute(
                    "update erasures set counts = %s where id = %s",
                    [Jsonb(self.counts), self._values["erasure"]],
                )
            await asyncio.sleep(time.monotonic() - began)
        return False

    async def _rest(self) -> bool:
        """Deletes what is in few rows, or in those of an older release."""
        found = False
        for name, statement in _REST.items():
            deleted = await self._do(statement, {})
            self.counts[name] += deleted
            found = found or deleted > 0
        return found

    async def _turns(self) -> bool:
        """Deletes some turns with their replies, and all votes on them."""
        turns = await self._ids(_TURNS)
        if not turns:
            return False
        values = {"turns": turns}
        await self._mark_files(values)
        votes = await self._one(
            "select count(*) as count from feedback where turn_id = any(%(turns)s)", values
        )
        self.counts["votes"] += votes["count"]
        await self._examples("turn_id = any(%(turns)s)", values)
        await self._answers("", values)
        self.counts["annotations"] += await self._do(
            "delete from annotation_items where turn_id = any(%(turns)s)", values
        )
        await self._do("delete from taught_demonstrations where turn_id = any(%(turns)s)", values)
        self.counts["turns"] += (await self._one(_DELETE_TURNS, values))["count"]
        return True

    async def _votes(self) -> bool:
        """Deletes some votes on what others were answered."""
        turns = await self._ids(_VOTED)
        if not turns:
            return False
        values: dict[str, Any] = {"turns": turns}
        await self._mark_files(values)
        gone = await self._one(_DELETE_VOTES, values)
        values |= {"ids": gone["ids"] or [], "events": gone["events"] or []}
        self.counts["votes"] += len(values["ids"])
        await self._examples("event_id = any(%(events)s)", values)
        await self._answers("and response ->> 'id' = any(%(ids)s)", values)
        return True

    async def _mark_files(self, values: dict[str, Any]) -> None:
        """Marks the exported files that have these votes. A file that is begun meanwhile waits for the
        lock, so it is either marked or written without them."""
        await self._do("select from projects where id = %(project)s for share", {})
        await self._do(_STALE, values)

    async def _examples(
        self,
        which: LiteralString = "ctid = any(array(select ctid from training_examples where"
        " project = %(project)s and rater = any(%(raters)s) and created_at <= %(until)s limit %(most)s))",
        values: dict[str, Any] | None = None,
    ) -> bool:
        """Deletes training examples; by themselves they are what is left of votes past their retention."""
        deleted = (await self._one(_EXAMPLES.format(which=which), values or {}))["count"]
        self.counts["examples"] += deleted
        return bool(deleted)

    async def _answers(self, which: LiteralString, values: dict[str, Any]) -> None:
        statement: LiteralString = (
            "delete from idempotency where project = %(project)s"
            " and response ->> 'completion_id' = any(%(turns)s) "
        )
        self.counts["answers"] += await self._do(statement + which, values)

    async def _ids(self, statement: LiteralString) -> list[str]:
        cursor = await self._connection.execute(statement, self._values)
        return [row["id"] for row in await cursor.fetchall()]

    async def _one(self, statement: LiteralString, values: dict[str, Any]) -> DictRow:
        row = await _row(self._connection, statement, {**self._values, **values})
        assert row is not None  # noqa: S101  (an aggregate gives its row)
        return row

    async def _do(self, statement: LiteralString, values: dict[str, Any]) -> int:
        return (await self._connection.execute(statement, {**self._values, **values})).rowcount


async def _row(connection: Connection, statement: LiteralString, values: Any) -> DictRow | None:
    return await (await connection.execute(statement, values)).fetchone()
