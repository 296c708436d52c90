"""A spool file holds entries as lines, synced before they count, under a lock that tells whether its process
lives."""

import fcntl
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Self

from schemas.files import fsync


class SpoolFile:
    """A locked file of entries. `size` counts the bytes that are whole and synced, `applied` those that are
    in Postgres."""

    def __init__(self, path: Path, handle: BinaryIO, size: int) -> None:
        self.path = path
        self.size = size
        self.applied = 0
        self._handle = handle

    @classmethod
    def create(cls, folder: Path) -> Self:
        name = uuid.uuid4().hex
        draft, path = folder / f"{name}.new", folder / f"{name}.jsonl"
        descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)  # it holds what people wrote
        handle = os.fdopen(descriptor, "rb+", buffering=0)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        draft.rename(path)  # nobody finds it before it is locked
        fsync(folder)
        return cls(path, handle, 0)

    @classmethod
    def take(cls, path: Path) -> Self | None:
        """Returns the file of a process that died; None where its process lives, or has just removed it."""
        handle = path.open("rb+", buffering=0)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
            return None
        if not path.exists():
            handle.close()
            return None
        return cls(path, handle, path.stat().st_size)

    def append(self, lines: bytes) -> None:
        """Raises OSError, and then has appended nothing."""
        try:
            written = 0
            while written < len(lines):
                written += os.pwrite(self._handle.fileno(), lines[written:], self.size + written)
            os.fsync(self._handle.fileno())
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._handle.fileno(), self.size)
            raise
        self.size += len(lines)

    def read(self, most: int) -> list[bytes]:
        """Returns the next whole lines that are not applied yet; of a file that was cut off, the rest as
        well."""
        with self.path.open("rb") as file:
            file.seek(self.applied)
            lines: list[bytes] = []
            left = self.size - self.applied
            while left > 0 and len(lines) < most:
                lines.append(file.readline(left))
                left -= len(lines[-1])
            return lines

    def clear(self) -> None:
        os.ftruncate(self._handle.fileno(), 0)
        self.size = self.applied = 0

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self._handle.close()

    def close(self) -> None:
        if self.size == 0:
            self.path.unlink(missing_ok=True)
        self._handle.close()
