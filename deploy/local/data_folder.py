"""A lock file gives one `hearken up` exclusive use of its data folder."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.errors import StartError

_MIN_FREE_BYTES = 256 * 2**20


@contextmanager
def locked_data_folder(directory: Path) -> Iterator[None]:
    """Creates the folder, which others on this machine may not read, and holds its lock. Raises StartError if
    it cannot be written, is in use, or its disk is full."""
    try:
        for name in (".", "logs", "policies", "rounds", "signing", "spool"):
            (directory / name).mkdir(parents=True, exist_ok=True)
            if name != "." or os.geteuid() != 0:  # root's Postgres is another user, who must get through
                (directory / name).chmod(0o700)
        lock = (directory / "lock").open("a+")
    except OSError as error:
        raise StartError(
            f"The data folder {directory} cannot be written: {error}. Name another with --data-dir."
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise StartError(
                f"The data folder {directory} is in use by another Hearken (process {lock.read().strip()}). "
                "Stop that one, or name another folder with --data-dir."
            ) from None
        free = shutil.disk_usage(directory).free
        if free < _MIN_FREE_BYTES:
            raise StartError(
                f"The disk of {directory} is full: {free // 2**20} MiB free, but"
                f" {_MIN_FREE_BYTES // 2**20} needed. Free some, or name a folder on another disk"
                " with --data-dir."
            )
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
