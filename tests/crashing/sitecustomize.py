"""Failpoints around every commit, for tests: a Python process whose PYTHONPATH names this folder loads this
file by itself, and dies by SIGKILL at the commit that is asked for.

A commit of what was written is named by the function of Hearken that asked for it, and a side: `before` it
was sent, or `after` the answer came and before anybody was told; `feedback.store.Store._row after`. In the
folder of HEARKEN_TEST_CRASHES a file of that name in `armed/` asks for it; the first process that gets there
moves it to `fired/` and dies. `seen/` collects the names, so that a test can tell what it did not reach.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

ROOMS = ("schemas.", "feedback.", "serving.", "trainer.", "deploy.")


def _asked_by() -> str | None:
    """The innermost function of Hearken on the stack."""
    frame = sys._getframe(2)
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith(ROOMS):
            return f"{module}.{frame.f_code.co_qualname}"
        frame = frame.f_back  # type: ignore[assignment]
    return None


class _Failpoints:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: set[str] = set()

    def reach(self, name: str, side: str) -> None:
        if name not in self.seen:
            self.seen.add(name)
            (self.folder / "seen" / name).touch()
        point = f"{name} {side}"
        try:
            (self.folder / "armed" / point).rename(self.folder / "fired" / point)
        except FileNotFoundError:  # not armed, or another process was first
            return
        os.kill(os.getpid(), signal.SIGKILL)


def _install(failpoints: _Failpoints) -> None:
    from psycopg import pq
    from psycopg._connection_base import BaseConnection
    from psycopg._cursor_base import BaseCursor
    from psycopg._pipeline_base import BasePipeline

    command, sync, execute = BaseConnection._exec_command, BasePipeline._sync_gen, BaseCursor._execute_gen
    wrote: set[int] = set()  # connections in a transaction
    in_pipeline: dict[int, str] = {}

    def commanded(self: Any, statement: Any, *rest: Any, **more: Any) -> Any:
        commits = statement == b"COMMIT" and (id(self) in wrote or self._pipeline is not None)
        name = _asked_by() if commits else None
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
        writes = bool(text.strip()) and not text.lstrip().startswith("select")  # "" is a pool's look at it
        alone = self._conn.autocommit and self._conn.pgconn.transaction_status == pq.TransactionStatus.IDLE
        name = _asked_by() if writes and alone else None
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
