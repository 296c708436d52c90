"""A file, or what a folder lists, is durable once it is synced; a private folder is its owner's alone."""

import os
from pathlib import Path


def fsync(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private_folder(path: Path) -> None:
    """Creates a folder, if there is none, that only its owner may enter. Raises OSError."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
