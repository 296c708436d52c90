"""This startup hook puts failpoints around every commit: Python loads it if PYTHONPATH names this folder.

A failpoint is named by the function of Hearken that commits a write, and a side: `before` the commit is sent,
or `after` its answer came and before the caller hears of it, as in `feedback.store.Store._row after`. A file
of that name in `armed/`, in the folder HEARKEN_TEST_CRASHES, arms it. The first process that reaches it moves
the file to `fired/` and dies by SIGKILL. `seen/` collects the names of all commits, so that a test can tell
what it missed.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

ROOMS = ("schemas.", "feedback.", "serving.", "trainer.", "deploy.")


def _caller() -> str | None:
    """Returns the innermost function of Hearken on the stack."""
    frame = sys._getframe(2)
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith(ROOMS):
            return f"{module}.{frame.f_code.co_qualname}"
        frame = frame.f_back  # type: ignore[assignment]
    return None


class _Failpoints:
    """The state of the failpoints, as files in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: set[str] = set()

    def reach(self, name: str, side: str) -> None:
        """Kills this process if the failpoint is armed and no other process was first."""
        if name not in self.seen:
            self.seen.add(name)
            (self.folder / "seen" / name).touch()
        failpoint = f"{name} {side}"
        try:
            (self.folder / "armed" / failpoint).rename(self.folder / "fired" / failpoint)
        except FileNotFoundError:  # not armed, or another process was first
            return
        os.kill(os.getpid(), signal.SIGKILL)


def _install(failpoints: _Failpoints) -> None:
    """Patches psycopg so that every commit of a write passes a failpoint."""
    from psycopg import pq
    from psycopg._connection_base import BaseConnection
    from psycopg._cursor_base import BaseCursor
    from psycopg._pipeline_base import BasePipeline

    command, sync, execute = BaseConnection._exec_command, BasePipeline._sync_gen, BaseCursor._execute_gen
    wrote: set[int] = set()  # connections in a transaction
    in_pipeline: dict[int, str] = {}

    def commanded(self: Any, statement: Any, *rest: Any, **more: Any) -> Any:
        commits = statement == b"COMMIT" and (id(self) in wrote or self._pipeline is not None)
        name = _caller() if commits else None
        if statement in (b"COMMIT", b"ROLLBACK"):
            wrote.discard(id(self))
        if name is not None:
            failpoints.reach(name, "before")
        result = yield from command(self, statement, *rest, **more)
        if name is not None and self._pipeline is None:
            failpoints.reach(name, "after")
        elif name is not None:
            in_pipeline[id(self)] = name
        return result

    def synced(self: Any) -> Any:
        yield from sync(self)
        if name := in_pipeline.pop(id(self._conn), None):
            failpoints.reach(name, "after")

    def executed(self: Any, query: Any, *rest: Any, **more: Any) -> Any:
        text = query.decode() if isinstance(query, bytes) else str(query)
        writes = bool(text.strip()) and not text.lstrip().startswith("select")  # "" is a pool's check
        alone = self._conn.autocommit and self._conn.pgconn.transaction_status == pq.TransactionStatus.IDLE
        name = _caller() if writes and alone else None
        if name is not None:
            failpoints.reach(name, "before")
        elif writes:
            wrote.add(id(self._conn))
        yield from execute(self, query, *rest, **more)
        if name is not None:
            failpoints.reach(name, "after")

    BaseConnection._exec_command = commanded  # type: ignore[method-assign]
    BasePipeline._sync_gen = synced  # type: ignore[method-assign]
    BaseCursor._execute_gen = executed  # type: ignore[method-assign]


if _FOLDER := os.environ.get("HEARKEN_TEST_CRASHES"):
    _install(_Failpoints(Path(_FOLDER)))
