"""A file, or what a folder lists, is durable once it is synced to disk."""

import os
from pathlib import Path


def fsync(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
