"""Row files are JSON Lines, JSON arrays, CSV, Parquet or Arrow, compressed or not, and read as streams;
`feedback.row_writer` writes them."""

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from feedback.row_writer import pyarrow_for
from schemas.errors import HearkenError, MalformedRow, StartError

_READ_BATCH = 64
"""Rows of a Parquet file in memory."""


class Row(NamedTuple):
    """A row of a file. `number` counts from 1, by line in JSON Lines. `value` is MalformedRow if the line is
    not JSON. `bytes_read` is the position in the file, or the same share of its size as of its rows.
    """

    number: int
    value: Any
    bytes_read: int


class FileDamaged(HearkenError):
    """Raised when the rest of a file cannot be read. The rows before it are imported: repair it and
    repeat."""


_PARQUET, _ARROW, _GZIP, _ZSTD = b"PAR1", b"ARROW1", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_LFS_POINTER = b"version https://git-lfs."
_STDIN = "-"
_ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".pq", ".arrow")
_COMPRESSED = (".gz", ".zst", ".zstd")
_DAMAGES = (EOFError, OSError, zlib.error)


def files_in(paths: Sequence[Path]) -> list[Path]:
    """Returns the files: in folders, those of a known ending, by name. Raises StartError for an empty one."""
    found: list[Path] = []
    for path in paths:
        inside = (
            sorted(each for each in path.rglob("*") if _ending(each) in _ENDINGS) if path.is_dir() else [path]
        )
        if not inside:
            raise StartError(f"The folder {path} has no files of rows ({', '.join(_ENDINGS)}).")
        found += inside
    return found


def file_size(path: Path) -> int | None:
    """Returns the size in bytes, None of what is no plain file. Raises StartError if there is none."""
    if str(path) == _STDIN:
        return None
    if not path.exists() or path.is_dir():
        raise StartError(f"There is no file {path}.")
    return path.stat().st_size if path.is_file() else None


def read_file(path: Path) -> Iterator[Row]:
    """Yields the rows of a file, whatever its name: the beginning tells what it is. Raises StartError if it
    cannot be read at all, FileDamaged part of the way."""
    file_size(path)
    with _open(path) as raw:
        head = raw.peek(64)[:64]
        if head.startswith(_LFS_POINTER):
            raise StartError(
                f"{path} is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`."
            )
        if head.startswith((_PARQUET, _ARROW)) and str(path) == _STDIN:
            raise StartError("Parquet and Arrow cannot be read from standard input: name the file.")
        if head.startswith(_PARQUET):
            yield from _read_parquet(path)
        elif head.startswith(_ARROW):
            yield from _read_arrow(path)
        elif _ending(path) in (".parquet", ".pq", ".arrow"):
            raise StartError(f"{path} is not a Parquet or Arrow file.")
        else:
            try:
                yield from _read_text(path, raw)
            except _DAMAGES as error:
                raise FileDamaged(f"{path} is damaged: {error}") from None


def _open(path: Path) -> io.BufferedReader:
    if str(path) == _STDIN:
        return io.BufferedReader(io.FileIO(sys.stdin.fileno(), closefd=False))
    try:
        return path.open("rb")
    except OSError as error:
        raise StartError(f"{path} cannot be read: {error.strerror}.") from None


def _ending(path: Path) -> str:
    """Returns the ending of a file's name, in small letters and without that of its compression."""
    name = path.name.lower()
    for ending in _COMPRESSED:
        name = name.removesuffix(ending)
    return Path(name).suffix


def _read_text(path: Path, raw: io.BufferedReader) -> Iterator[Row]:
    """Yields the rows of JSON Lines, a JSON array or CSV, compressed or not."""
    head, text = raw.peek(64), raw
    if head.startswith(_GZIP):
        text = io.BufferedReader(gzip.GzipFile(fileobj=raw))
    elif head.startswith(_ZSTD):
        pyarrow = pyarrow_for("Zstandard files")
        text = io.BufferedReader(pyarrow.CompressedInputStream(raw, "zstd"))
    if _ending(path) in (".csv", ".tsv"):
        yield from _read_csv(text, raw, "\t" if _ending(path) == ".tsv" else ",")
        return
    begins = text.peek(4096)[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if begins == b"[":
        yield from _read_array(path, text, raw)
    elif begins in (b"{", b""):
        yield from _read_lines(text, raw)
    else:
        raise StartError(
            f"{path} is neither JSON Lines, a JSON array, Parquet nor Arrow;"
            " CSV needs a name that ends in .csv."
        )


def _read_lines(text: io.BufferedReader, raw: io.BufferedReader) -> Iterator[Row]:
    """Yields the rows of a JSON Lines file; blank lines are skipped."""
    read = 0
    for number, line in enumerate(text, 1):
        read = read + len(line) if text is raw else _position(raw)
        if line.isspace():
            continue
        try:
            yield Row(number, json.loads(line), read)
        except ValueError:
            yield Row(number, MalformedRow("it is not JSON"), read)
        except RecursionError:
            yield Row(number, MalformedRow("it is nested too deeply"), read)


def _read_array(path: Path, text: io.BufferedReader, raw: io.BufferedReader) -> Iterator[Row]:
    """Yields the items of a JSON array, which is read whole."""
    try:
        items = json.load(text)
    except (ValueError, RecursionError) as error:
        raise StartError(f"{path} is not a JSON array: {error}.") from None
    size = _position(raw)
    for number, item in enumerate(items, 1):
        yield Row(number, item, size * number // len(items))


def _read_csv(text: io.BufferedReader, raw: io.BufferedReader, delimiter: str) -> Iterator[Row]:
    """Yields the rows of a file with a header. Cells that hold a JSON list are lists; empty ones are null."""
    csv.field_size_limit(2**31 - 1)
    lines = io.TextIOWrapper(text, encoding="utf-8-sig", errors="replace", newline="")
    reader = csv.DictReader(lines, delimiter=delimiter, restkey=None)
    try:
        for number, cells in enumerate(reader, 1):
            row = {name: _cell(value) for name, value in cells.items() if name is not None}
            yield Row(number, row, _position(raw))
    finally:
        lines.detach()  # its file is the caller's


def _cell(value: str | None) -> Any:
    """Returns a cell's list of messages, or its text; None where it is empty."""
    if value and value.startswith("["):
        with suppress(ValueError, RecursionError):
            return json.loads(value)
    return value or None


def _position(raw: io.BufferedReader) -> int:
    with suppress(OSError):  # of a pipe
        return raw.tell()
    return 0


def _read_arrow(path: Path) -> Iterator[Row]:
    pyarrow = pyarrow_for("Arrow files")
    from pyarrow import ipc

    try:
        file = ipc.open_file(pyarrow.memory_map(str(path)))
    except (pyarrow.ArrowException, OSError) as error:
        raise StartError(f"{path} is not an Arrow file: {error}") from None
    size, read = file_size(path) or 0, 0
    for index in range(file.num_record_batches):
        try:
            batch = file.get_batch(index)
            batch.validate(full=True)  # whoever reads by damaged offsets reads other memory
            values = batch.to_pylist()
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise FileDamaged(f"{path} is damaged after row {read}: {error}") from None
        for value in values:
            read += 1
            yield Row(read, _without_nulls(value), size * (index + 1) // file.num_record_batches)


def _read_parquet(path: Path) -> Iterator[Row]:
    pyarrow_for("Parquet files")
    from pyarrow import ArrowException, parquet

    size, read = file_size(path) or 0, 0
    try:
        file = parquet.ParquetFile(path, pre_buffer=False)  # pre-buffering would hold all of it
    except (ArrowException, OSError, ValueError) as error:
        raise StartError(f"{path} is not a Parquet file: {error}") from None
    with file:
        batches = file.iter_batches(_READ_BATCH)
        while True:
            try:
                batch = next(batches, None)
                values = [] if batch is None else batch.to_pylist()
            except (ArrowException, OSError, ValueError) as error:
                raise FileDamaged(f"{path} is damaged after row {read}: {error}") from None
            if batch is None:
                return
            for value in values:
                read += 1
                yield Row(read, _without_nulls(value), size * read // file.metadata.num_rows)


def _without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row of Arrow without what objects in its columns lack: Arrow gives all objects of a column
    the same fields."""
    return {name: _present(value) for name, value in row.items()}


def _present(value: Any) -> Any:
    if isinstance(value, list):
        return [_present(item) for item in value]
    if isinstance(value, dict):
        return {name: _present(item) for name, item in value.items() if item is not None}
    return value
