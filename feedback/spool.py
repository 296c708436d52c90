"""The spool keeps what Postgres cannot take now on this machine's disk, and brings it there in order later
(store and forward).

An entry is appended to a file and synced before it is acknowledged; entries that wait together share one
fsync. While there are entries, everything new waits behind them, so a vote comes after its turn. An entry may
be applied twice, where the process dies in between, so applying must be idempotent. A vote whose turn another
process's file holds is set aside (`feedback.aside`): nothing waits for it.

A process locks its own file. The file of a process that died is taken over by the next that looks into the
folder, and applied first. A line that was cut off by a crash was never acknowledged.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import orjson
import psycopg
import structlog
from psycopg.errors import ReadOnlySqlTransaction
from psycopg_pool import PoolTimeout

from feedback import aside
from feedback.aside import Aside, SetAside
from feedback.spool_file import SpoolFile
from schemas.errors import HearkenError, Unavailable
from schemas.files import private_folder
from schemas.wire import json_line

PATIENCE = 3.0
"""Seconds for Postgres to take a write, after which it counts as away."""
RETRY = 1.0
"""Seconds between attempts to bring the entries to Postgres."""
RESCAN = 60.0
"""Seconds between looks for the files of processes that died."""
BATCH = 64
"""Entries that are read at once."""

RECOVERY = 60.0
"""Seconds after an outage in which other processes may still bring their entries to Postgres."""


class NotYet(HearkenError):
    """An entry of the project `owner` cannot be applied before one that another file holds, of this process
    or of another. The spool tries again later."""

    def __init__(self, message: str, owner: str) -> None:
        super().__init__(message)
        self.owner = owner


# A server that only reads is a standby that has not taken over yet.
_AWAY = (psycopg.OperationalError, ReadOnlySqlTransaction, PoolTimeout, TimeoutError)

Entry = dict[str, Any]
T = TypeVar("T")
log = structlog.get_logger()


class Spool:
    """A spool in `folder`, of at most `most_bytes` in this process's file (0: no spool). It calls `refused`
    for each entry that it drops."""

    def __init__(self, folder: Path, most_bytes: int, refused: Callable[[], None]) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._refused = refused
        self._own: SpoolFile | None = None
        self._left: list[SpoolFile] = []
        self._aside = Aside(folder)
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._away_at = -RECOVERY

    @property
    def recovering(self) -> bool:
        """Whether Postgres is away or was away lately, so that what was acknowledged may not be there yet."""
        return self.active or time.monotonic() - self._away_at < RECOVERY

    @property
    def active(self) -> bool:
        """Whether entries wait for Postgres."""
        own = self._own is not None and self._own.size > 0
        return own or bool(self._left or self._waiting or self._writing)

    @property
    def size(self) -> int:
        """Bytes that wait for Postgres."""
        return sum(file.size for file in (*self._left, *([self._own] if self._own else [])))

    @property
    def set_aside(self) -> int:
        """Bytes of votes that wait for their turns."""
        return self._aside.size

    def holds(self, entry_id: str) -> bool:
        """Returns whether a vote waits here for its turn."""
        return self._aside.holds(entry_id)

    def open(self) -> None:
        """Creates this process's file, and takes over those of processes that died. Where the folder cannot
        be written there is no spool."""
        if not self._most_bytes:
            return
        try:
            private_folder(self._folder)
            self._own = SpoolFile.create(self._folder)
        except OSError as error:
            log.warning("no_spool", folder=str(self._folder), error=str(error))
            return
        self._take_over()

    async def close(self) -> None:
        """Waits for the appends that are under way, and lets go of the files."""
        if self._writing is not None:
            await self._writing
        for file in (*self._left, *([self._own] if self._own else [])):
            file.close()
        self._aside.close()

    async def write(self, direct: Callable[[], Awaitable[T]], entry: Callable[[], Entry]) -> T | None:
        """Runs `direct`, which writes to Postgres, and returns its result. Where Postgres is away or entries
        wait already, appends `entry` and returns None: it is durable on this machine only.

        Raises Unavailable when the spool is full or its disk fails, and psycopg.OperationalError and
        PoolTimeout where there is no spool."""
        if not self.active:
            try:
                async with asyncio.timeout(PATIENCE if self._own else None) as patience:
                    return await direct()
            except (*_AWAY, psycopg.Error) as error:
                # A connection that is given up in the middle of a statement may fail in other ways.
                if self._own is None or not (isinstance(error, _AWAY) or patience.expired()):
                    raise
                self._away_at = time.monotonic()
                log.warning("database_away", error=type(error).__name__, spooled=self.size)
        await self._append(json_line(entry()) + b"\n")
        return None

    async def run(self, apply: Callable[[Entry], Awaitable[None]]) -> None:
        """Brings entries to Postgres, until cancelled. `apply` stores one; it is called again for an entry
        where the database is away or only reads, and later, for `aside.PATIENCE`, where it raises NotYet. An
        entry that it refuses is dropped."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), min(self._aside.seconds_left, RESCAN))
            self._wake.clear()
            self._take_over()
            while self.active or self._aside.due:
                try:
                    await self._drain(apply)
                except _AWAY:
                    await asyncio.sleep(RETRY)
                except OSError as error:  # of a file: the entries stay in it
                    log.error("spool_failed", error=str(error))
                    await asyncio.sleep(RETRY)

    async def _append(self, line: bytes) -> None:
        """Returns once the line is on the disk."""
        if self._own is None or self._own.size + len(line) > self._most_bytes:
            raise Unavailable("The database does not answer; try again soon.", code="database_unavailable")
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((line, durable))
        if self._writing is None:
            self._writing = asyncio.create_task(self._sync(self._own))
        await durable

    async def _sync(self, file: SpoolFile) -> None:
        """Appends what waits, all of it with one fsync."""
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                problem: Exception | None = None
                try:
                    await asyncio.to_thread(file.append, b"".join(line for line, _ in batch))
                except OSError as error:
                    log.error("spool_failed", error=str(error))
                    problem = Unavailable("Nothing can be stored now; try again soon.", code="disk_failed")
                for _, durable in batch:
                    if durable.done():
                        continue
                    durable.set_exception(problem) if problem else durable.set_result(None)
        finally:
            self._writing = None
            self._wake.set()

    async def _drain(self, apply: Callable[[Entry], Awaitable[None]]) -> None:
        """Applies the entries of all files, then empties this process's file and removes the others. What is
        set aside is tried again when it is due, and after a file that may hold what it waits for."""
        for file in list(self._left):
            await self._apply_all(file, apply)
            self._left.remove(file)
            file.remove()
            self._aside.hurry()
        while self._own is not None and (self._own.size or self._writing):
            await self._apply_all(self._own, apply)
            if self._writing is None and not self._waiting and self._own.applied == self._own.size:
                self._own.clear()
                self._away_at = time.monotonic()
                log.info("spool_empty")
            await asyncio.sleep(0)
        if self._aside.due and (again := self._aside.take()) is not None:
            try:
                await self._apply_all(again, apply)
            except BaseException:
                self._left.append(again)
                raise
            again.remove()

    async def _apply_all(self, file: SpoolFile, apply: Callable[[Entry], Awaitable[None]]) -> None:
        while lines := await asyncio.to_thread(file.read, BATCH):
            entries = [entry for entry in map(_decoded, lines) if entry is not None]
            early: list[SetAside] = []
            for kind, group in groupby(entries, lambda entry: entry["kind"]):
                if kind == "turn":  # turns that come together share a transaction
                    await _gather([self._apply(entry, apply, early) for entry in group])
                else:
                    for entry in group:
                        await self._apply(entry, apply, early)
            for full in await asyncio.to_thread(self._aside.put, early):
                self._refuse(full.entry, f"{full.owner} has too many votes that wait for their turns")
            file.applied += sum(map(len, lines))

    async def _apply(
        self, entry: Entry, apply: Callable[[Entry], Awaitable[None]], early: list[SetAside]
    ) -> None:
        """Applies an entry, drops it where it is refused, or adds it to those that come too early."""
        try:
            await apply(entry)
        except _AWAY:
            raise
        except NotYet as error:
            waited = self._aside.waited(entry)
            if waited < aside.PATIENCE:
                early.append(SetAside({**entry, "waited": waited}, error.owner))
            else:
                self._refuse(entry, error.message)
        except Exception as error:
            self._refuse(entry, str(error))
        else:
            self._aside.settle(entry.get("id", ""))

    def _refuse(self, entry: Entry, why: str) -> None:
        self._aside.settle(entry.get("id", ""))
        self._refused()
        log.error("spooled_entry_refused", kind=entry["kind"], id=entry.get("id"), error=why)

    def _take_over(self) -> None:
        known = {file.path for file in (*self._left, *([self._own] if self._own else []))}
        for path in set(self._folder.glob("*.jsonl")) - known:
            with suppress(OSError):  # its process has just removed it, or it is another user's
                if (file := SpoolFile.take(path)) is not None:
                    self._left.append(file)


async def _gather(work: Sequence[Awaitable[None]]) -> None:
    """Waits for all, then raises the first error."""
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def _decoded(line: bytes) -> Entry | None:
    """Returns the entry of a line; None of one that was cut off."""
    try:
        found: Entry = orjson.loads(line)
    except orjson.JSONDecodeError:
        log.warning("spooled_line_cut_off", bytes=len(line))
        return None
    return found
