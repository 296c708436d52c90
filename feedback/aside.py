"""The aside file holds entries of the spool that wait for what another file holds, so that nothing else waits
for them. It is a spool file, so the next process takes it over like any other.
"""

import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from feedback.spool_file import SpoolFile
from schemas.wire import json_line

FIRST_RETRY = 1.0
"""Seconds until what is set aside is tried again; twice as many after each attempt."""
RETRY = 30.0
"""Seconds between two attempts at the most."""
PATIENCE = 7_200.0
"""Seconds in which Postgres answers, after which an entry is given up: a replica that died in an outage is
back by then, with what its file holds."""
MOST_BYTES = 16 * 2**20
"""Bytes that are set aside at once."""
OWNER_BYTES = 4 * 2**20
"""Bytes of them that one project may take."""


class SetAside(NamedTuple):
    """An entry that waits, and the project that it counts for."""

    entry: dict[str, Any]
    owner: str


class Backoff:
    """The times at which what is set aside is tried again (exponential backoff). `due_at` is the next one
    (time.monotonic), `elapsed` what lay between the last two, seconds, at most RETRY."""

    def __init__(self) -> None:
        self.due_at = math.inf
        self.elapsed = 0.0
        self._last = 0.0
        self._pause = FIRST_RETRY

    def schedule(self, *, new: bool) -> None:
        """Makes an attempt due after the pause at the latest, which is the first one again for what is
        new."""
        if new:
            self._pause = FIRST_RETRY
        self.due_at = min(self.due_at, time.monotonic() + min(self._pause, RETRY))

    def attempt(self) -> None:
        """Takes note that an attempt begins, after which none is due."""
        now = time.monotonic()
        self.elapsed, self._last = min(now - self._last, RETRY), now
        self.due_at, self._pause = math.inf, min(2 * self._pause, RETRY)


class Aside:
    """What is set aside by one process, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: SpoolFile | None = None
        self._bytes: Counter[str] = Counter()
        self._ids: set[str] = set()
        self._backoff = Backoff()

    @property
    def size(self) -> int:
        """Bytes that are set aside."""
        return self._file.size if self._file is not None else 0

    @property
    def due(self) -> bool:
        """Whether what is set aside is to be tried again now."""
        return time.monotonic() >= self._backoff.due_at

    @property
    def seconds_left(self) -> float:
        """Seconds until the next attempt; endless where nothing is set aside."""
        return max(0.0, self._backoff.due_at - time.monotonic())

    def waited(self, entry: dict[str, Any]) -> float:
        """Returns for how many seconds of attempts an entry has waited that is tried now."""
        return float(entry["waited"]) + self._backoff.elapsed if "waited" in entry else 0.0

    def holds(self, entry_id: str) -> bool:
        return entry_id in self._ids

    def put(self, entries: Sequence[SetAside]) -> list[SetAside]:
        """Appends entries, durable on return; returns those for which there is no room. Raises OSError, and
        then has appended nothing."""
        lines: list[bytes] = []
        full: list[SetAside] = []
        ids: list[str] = []
        used = self._bytes.copy()
        for each in entries:
            line = json_line(each.entry) + b"\n"
            if len(line) > min(MOST_BYTES - used.total(), OWNER_BYTES - used[each.owner]):
                full.append(each)
                continue
            used[each.owner] += len(line)
            ids.append(each.entry["id"])
            lines.append(line)
        if lines:
            if self._file is None:
                self._file = SpoolFile.create(self._folder)
            self._file.append(b"".join(lines))
            self._backoff.schedule(new=any(not each.entry["waited"] for each in entries))
            self._bytes = used
            self._ids.update(ids)
        return full

    def hurry(self) -> None:
        """Makes the next attempt due: what is waited for may have come."""
        if self._file is not None:
            self._backoff.due_at = 0.0

    def take(self) -> SpoolFile | None:
        """Returns the file of what is set aside, to be applied and removed, and begins another."""
        file, self._file = self._file, None
        self._bytes.clear()
        self._backoff.attempt()
        return file

    def settle(self, entry_id: str) -> None:
        """Takes note that an entry waits no longer."""
        self._ids.discard(entry_id)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
