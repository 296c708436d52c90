"""FeatureTable keeps features of replies in a file of fixed rows that is mapped into memory, not read whole.

A row is named by the digest of what it was computed from, so a trainer that starts again finds it, and has a
checksum, so a row that was written in part counts as missing. Rows are appended; whatever is dropped is gone
from the disk, since the file is then written anew.
"""

import hashlib
import json
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from schemas.files import private_folder

DIGEST_BYTES, CHECKSUM_BYTES = 32, 4

Rows = NDArray[np.uint8]
Columns = list[tuple[str, str, int]]
"""The name, the type and the width of each group of features."""


class FeatureTable:
    """The rows by digest, in `path`, or in memory only where that is None. Another layout of the columns than
    the file's begins a new file."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._columns: Columns = []
        self._rows = np.empty((0, 0), np.uint8)
        self._place: dict[bytes, int] = {}
        if path is not None and path.is_file():
            self._open(path)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._place

    def __len__(self) -> int:
        return len(self._place)

    def add(self, digests: Sequence[bytes], groups: Mapping[str, Tensor]) -> None:
        """Adds a row for each digest, of (N, D) groups."""
        columns = [(name, str(group.numpy().dtype), group.shape[1]) for name, group in groups.items()]
        payload = np.concatenate([_bytes(group) for group in groups.values()], 1)
        checksums = np.array([zlib.crc32(row.tobytes()) for row in payload], np.uint32)
        names = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES)
        rows = np.concatenate([names, checksums.view(np.uint8).reshape(-1, CHECKSUM_BYTES), payload], 1)
        same = columns == self._columns
        self._write(columns, [self._rows, rows] if same else [rows], append=same)

    def keep(self, digests: Collection[bytes]) -> None:
        """Drops the rows of all other digests."""
        kept = [place for digest, place in self._place.items() if digest in digests]
        if len(kept) < len(self._rows):
            self._write(self._columns, [self._rows[kept]], append=False)

    def rows(self, digests: Iterable[bytes]) -> dict[str, Tensor]:
        """Returns a copy of the rows of these digests, as (N, D) groups. Raises KeyError."""
        chosen = self._rows[[self._place[digest] for digest in digests]]
        found: dict[str, Tensor] = {}
        start = DIGEST_BYTES + CHECKSUM_BYTES
        for name, dtype, width in self._columns:
            end = start + width * np.dtype(dtype).itemsize
            found[name] = torch.from_numpy(chosen[:, start:end].copy().view(dtype))
            start = end
        return found

    def _write(self, columns: Columns, parts: list[Rows], *, append: bool) -> None:
        if self._path is None:
            self._columns = columns
            self._take(np.concatenate(parts))
            return
        private_folder(self._path.parent)
        if append and self._path.is_file():
            with self._path.open("ab") as file:
                file.write(parts[-1].tobytes())
        else:
            draft = self._path.with_suffix(".draft")
            with draft.open("wb") as file:
                file.write(json.dumps(columns).encode() + b"\n")
                for part in parts:
                    file.write(part.tobytes())
            draft.replace(self._path)
        self._open(self._path)

    def _open(self, path: Path) -> None:
        """Maps the file. A last row that is not whole is cut off, so that rows can be appended."""
        with path.open("rb+") as file:
            head = file.readline()
            try:
                self._columns = [(name, dtype, width) for name, dtype, width in json.loads(head)]
            except ValueError:
                self._columns = []
            width = sum(np.dtype(dtype).itemsize * count for _, dtype, count in self._columns)
            width += DIGEST_BYTES + CHECKSUM_BYTES
            count = (path.stat().st_size - len(head)) // width if self._columns else 0
            file.truncate(len(head) + count * width)
        shape = count, width
        self._take(np.memmap(path, np.uint8, "r", len(head), shape) if count else np.empty(shape, np.uint8))

    def _take(self, rows: Rows) -> None:
        known, self._rows, self._place = self._place, rows, {}
        names = [row.tobytes() for row in rows[:, :DIGEST_BYTES]]
        for place, name in enumerate(names):
            if known.get(name) is not None or self._is_whole(rows[place]):
                self._place[name] = place

    @staticmethod
    def _is_whole(row: Rows) -> bool:
        checksum = row[DIGEST_BYTES : DIGEST_BYTES + CHECKSUM_BYTES].tobytes()
        return zlib.crc32(row[DIGEST_BYTES + CHECKSUM_BYTES :].tobytes()).to_bytes(4, "little") == checksum


def digest_of(prompt_ids: Sequence[int], token_ids: Sequence[int]) -> bytes:
    """Returns the name of a reply's row."""
    return hashlib.sha256(json.dumps([list(prompt_ids), list(token_ids)]).encode()).digest()


def _bytes(group: Tensor) -> Rows:
    array = np.ascontiguousarray(group.numpy())
    return array.view(np.uint8).reshape(len(array), -1)
