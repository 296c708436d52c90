"""New votes are exported on a schedule, each vote once: one file after another, each whole or not at all.

Files continue each other in the order in which votes were committed, so a vote that comes late is in the
next file. Which votes a file has, and its name, is stored before it is written, and that it is complete
afterwards: whoever dies in between leaves a file that is written again, with the same votes and under the
same name. One process does it for a project, by an advisory lock.

Which votes each file has is kept, so that a file with votes of somebody who was erased is written again
without them (`rewrite`).
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, LiteralString, NamedTuple

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from feedback.export import TABLE, Shape, everything, rows
from feedback.object_store import check_store, is_url
from feedback.row_writer import PARQUET, Row, draft_of, publish, pyarrow_for, remove, write_draft
from feedback.vote_filter import Filter, Position
from schemas import lock_ids
from schemas.database import connect_async
from schemas.errors import HearkenError
from schemas.files import private_folder
from schemas.settings import Settings

INTERVAL = 60.0
"""Seconds between two looks whether an export is due."""
BATCH = 100_000
"""Votes of one file."""

Outcome = Literal["written", "failed"]
log = structlog.get_logger()

_LOCK: LiteralString = "select 1 where pg_try_advisory_lock(%s, hashtext(%s))"
_NOT_DUE: LiteralString = """
select 1 from scheduled_exports
where project = %s and file is null and ran_at > now() - %s * interval '1 hour'
"""
_CLAIMED: LiteralString = """
select epoch, xid::text, id, to_epoch, to_xid::text, to_id, file from scheduled_exports where project = %s
"""
# A vote counts once no transaction that began before its own can still commit.
_NEXT: LiteralString = """
select epoch, xid::text, id from (
    select epoch, xid, id from feedback
    where project = %s and (epoch, xid, id) > (%s, %s::xid8, %s)
        and (epoch, xid) < ((select epoch from cluster), pg_snapshot_xmin(pg_current_snapshot()))
    order by epoch, xid, id limit %s
) as next order by next.epoch desc, next.xid desc, next.id desc limit 1
"""
_CLAIM: LiteralString = """
update scheduled_exports set to_epoch = %s, to_xid = %s::xid8, to_id = %s, file = %s where project = %s
"""
# An erasure marks the files that it sees: one that is deleting votes now does not see the file, which waits.
_AFTER_ERASURES: LiteralString = "select from projects where id = %s for no key update"
_KEEP: LiteralString = """
insert into exported_files
    (project, output, layout, shape, from_epoch, from_xid, from_id, to_epoch, to_xid, to_id)
values (%s, %s, %s, %s, %s, %s::xid8, %s, %s, %s::xid8, %s)
on conflict (project, to_epoch, to_xid, to_id) do update set output = excluded.output
"""
_STALE: LiteralString = """
select output, layout, shape, from_epoch, from_xid::text, from_id, to_epoch, to_xid::text, to_id,
    xmin::text as version
from exported_files where project = %s and stale limit 1
"""
# A file that an erasure marks again while it is written has another version then, and stays stale.
_REWRITTEN: LiteralString = """
update exported_files set stale = false
where project = %s and (to_epoch, to_xid, to_id) = (%s, %s::xid8, %s) and xmin::text = %s
"""
_SETTLE: LiteralString = """
update scheduled_exports set epoch = to_epoch, xid = to_xid, id = to_id,
    to_epoch = null, to_xid = null, to_id = null, file = null
where project = %s and file = %s
"""


class _Part(NamedTuple):
    """A file with the votes after `start` and up to `end`."""

    name: str
    start: Position
    end: Position


def check(settings: Settings) -> None:
    """Raises StartError where the export cannot work."""
    if settings.export.to is not None and is_url(settings.export.to):
        check_store(settings.export.to)
    if settings.export.to is not None and settings.export.parquet:
        pyarrow_for("Parquet files")


async def run(settings: Settings, count: Callable[[Outcome], None]) -> None:
    """Exports when it is due, until cancelled; what fails is tried again. `count` hears of each file."""
    while True:
        try:
            await export_if_due(settings, count)
        except (HearkenError, OSError, psycopg.Error) as error:
            count("failed")
            log.warning("export_failed", error=type(error).__name__, detail=str(error)[:500])
        await asyncio.sleep(INTERVAL)


async def export_if_due(settings: Settings, count: Callable[[Outcome], None]) -> None:
    """Exports all votes that are new, where that is due and no other process does. Raises HearkenError,
    OSError and psycopg.Error."""
    project, to = settings.project, settings.export.to
    if to is None:
        return
    async with await connect_async(settings.database_url or "") as connection:
        if not await _one(connection, _LOCK, lock_ids.EXPORT, project):
            return
        if await _one(connection, _NOT_DUE, project, settings.export.every):
            return
        while part := await _claim(connection, settings):
            output = f"{to.rstrip('/')}/{project}/{part.name}"
            layout, shape = settings.export.format, settings.export.shape
            async with connection.transaction():
                await connection.execute(_AFTER_ERASURES, [project])
                await connection.execute(_KEEP, [project, output, layout, shape, *part.start, *part.end])
            if await _write(connection, project, layout, shape, part, output):
                count("written")
            await connection.execute(_SETTLE, [project, part.name])
        await connection.execute("update scheduled_exports set ran_at = now() where project = %s", [project])


async def _claim(connection: AsyncConnection[DictRow], settings: Settings) -> _Part | None:
    """Returns the file that was not completed, or the next one; None where no vote is new."""
    project = settings.project
    await connection.execute(
        "insert into scheduled_exports (project) values (%s) on conflict do nothing", [project]
    )
    at = await _one(connection, _CLAIMED, project) or {}
    start = Position(at["epoch"], at["xid"], at["id"])
    if at["file"] is not None:
        return _Part(at["file"], start, Position(at["to_epoch"], at["to_xid"], at["to_id"]))
    found = await _one(connection, _NEXT, project, *start, BATCH)
    if not found:
        return None
    end = Position(**found)
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{end.id}{PARQUET if settings.export.parquet else '.jsonl'}"
    await connection.execute(_CLAIM, [*end, name, project])
    return _Part(name, start, end)


async def rewrite(connection: AsyncConnection[DictRow], project: str) -> int | None:
    """Writes the stale files of a project again from what is stored now; a file without a row goes. Returns
    how many there were, or None while another process exports. Raises HearkenError, OSError and
    psycopg.Error."""
    if not await _one(connection, _LOCK, lock_ids.EXPORT, project):
        return None
    written = 0
    try:
        while found := await _one(connection, _STALE, project):
            start, end = (
                Position(found[f"{name}_epoch"], found[f"{name}_xid"], found[f"{name}_id"])
                for name in ("from", "to")
            )
            part, output = _Part("", start, end), found["output"]
            if not await _write(connection, project, found["layout"], found["shape"], part, output):
                await remove(output)
            await connection.execute(_REWRITTEN, [project, *end, found["version"]])
            written += 1
    finally:
        await connection.execute("select pg_advisory_unlock(%s, hashtext(%s))", [lock_ids.EXPORT, project])
    return written


async def _write(
    connection: AsyncConnection[DictRow],
    project: str,
    layout: Literal["jsonl", "preference", "unpaired", "prompt-completion"],
    shape: Shape | None,
    part: _Part,
    output: str,
) -> bool:
    """Writes a file; returns False where none of its votes is a row of the layout."""
    only = Filter(between=(part.start, part.end))
    if not is_url(output):
        private_folder(Path(output).parent)
    with draft_of(output) as draft:
        async with connection.transaction():
            if layout == "jsonl":
                found = everything(connection, project, only)
            else:
                found = rows(connection, project, layout, shape, only)
            async with aclosing(found):
                first = await anext(found, None)
                if first is None:
                    return False
                await write_draft(_chain(first, found), draft, TABLE if layout == "jsonl" else None)
        await publish(draft, output)
    return True


async def _chain(first: Row, others: AsyncIterator[Row]) -> AsyncIterator[Row]:
    yield first
    async for row in others:
        yield row


async def _one(
    connection: AsyncConnection[DictRow], statement: LiteralString, *values: Any
) -> DictRow | None:
    return await (await connection.execute(statement, values)).fetchone()
