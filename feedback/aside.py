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


class Aside:
    """What is set aside by one process, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: SpoolFile | None = None
        self._bytes: Counter[str] = Counter()
        self._ids: set[str] = set()
        self._pause = FIRST_RETRY
        self._next = self._last = 0.0  # time.monotonic
        self._elapsed = 0.0

    @property
    def size(self) -> int:
        """Bytes that are set aside."""
        return self._file.size if self._file is not None else 0

    @property
    def due(self) -> bool:
        """Whether what is set aside is to be tried again now."""
        return self._file is not None and time.monotonic() >= self._next

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the next attempt; None where nothing is set aside."""
        return None if self._file is None else max(0.0, self._next - time.monotonic())

    def waited(self, entry: dict[str, Any]) -> float:
        """Returns for how many seconds of attempts an entry has waited that is tried now."""
        return float(entry["waited"]) + self._elapsed if "waited" in entry else 0.0

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
            if any(not each.entry["waited"] for each in entries):
                self._pause = FIRST_RETRY
            if self._file is None:
                self._file, self._next = SpoolFile.create(self._folder), math.inf
            self._file.append(b"".join(lines))
            self._next = min(self._next, time.monotonic() + min(self._pause, RETRY))
            self._bytes = used
            self._ids.update(ids)
        return full

    def hurry(self) -> None:
        """Makes the next attempt due: what is waited for may have come."""
        self._next = 0.0

    def take(self) -> SpoolFile | None:
        """Returns the file of what is set aside, to be applied and removed, and begins another."""
        file, self._file = self._file, None
        self._bytes.clear()
        now = time.monotonic()
        self._elapsed, self._last = min(now - self._last, RETRY), now
        self._pause = min(2 * self._pause, RETRY)
        return file

    def settle(self, entry_id: str) -> None:
        """Takes note that an entry waits no longer."""
        self._ids.discard(entry_id)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
