"""Files of rows, as JSON lines or, by their ending, Parquet: read as they go, and written."""

import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from feedback.export import line
from feedback.layouts import Malformed
from schemas.errors import HearkenError, StartError

_READ, _WRITTEN = 64, 1_000  # rows of a Parquet file at once


class Row(NamedTuple):
    """`number` counts from 1, lines where there are lines; `found` is Malformed where it is no JSON; `read`
    are the bytes of the file that are behind us, or their share of a Parquet file."""

    number: int
    found: Any
    read: int


class BrokenOff(HearkenError):
    """A file that was read so far and can be read no further."""


def size(path: Path) -> int:
    """Bytes. Raises StartError."""
    if not path.is_file():
        raise StartError(f"There is no file {path}.")
    return path.stat().st_size


def read_file(path: Path) -> Iterator[Row]:
    """Raises StartError for a file that cannot be read at all, and BrokenOff."""
    return _read_parquet(path) if path.suffix == ".parquet" else _read_lines(path)


def _read_lines(path: Path) -> Iterator[Row]:
    """Lines that are blank are no rows."""
    read = 0
    with path.open("rb") as lines:
        for number, found in enumerate(lines, 1):
            read += len(found)
            if found.isspace():
                continue
            try:
                yield Row(number, json.loads(found), read)
            except ValueError:
                yield Row(number, Malformed("it is no JSON"), read)
            except RecursionError:
                yield Row(number, Malformed("it is nested too deeply"), read)


def _read_parquet(path: Path) -> Iterator[Row]:
    parquet = _pyarrow()
    from pyarrow import ArrowException

    whole, read = size(path), 0
    try:
        file = parquet.ParquetFile(path, pre_buffer=False)  # else all of it is held
    except (ArrowException, OSError, ValueError) as error:
        raise StartError(f"{path} is no Parquet file: {error}") from None
    with file:
        batches = file.iter_batches(_READ)
        while True:
            try:
                batch = next(batches, None)
                found = [] if batch is None else batch.to_pylist()
            except (ArrowException, OSError, ValueError) as error:
                raise BrokenOff(f"{path} is damaged behind row {read}: {error}") from None
            if batch is None:
                return
            for row in found:
                read += 1
                yield Row(read, row, whole * read // file.metadata.num_rows)


async def write_file(rows: AsyncIterator[dict[str, Any]], path: Path | None) -> None:
    """As JSON lines, to standard output without a path; or as Parquet, by the path's ending. A file is there
    when all of it is."""
    if path is None:
        async for row in rows:
            sys.stdout.write(line(row))
        return
    with _whole(path) as draft:
        if path.suffix == ".parquet":
            await _write_parquet(rows, draft)
            return
        with draft.open("w", encoding="utf-8") as file:
            async for row in rows:
                file.write(line(row))


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its place when it was written without an error; a pipe or a device is
    written to as it is."""
    if path.exists() and not path.is_file():
        yield path
        return
    path = path.resolve()  # a link stays one
    draft = path.with_name(f".{path.name}.draft")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


async def _write_parquet(rows: AsyncIterator[dict[str, Any]], path: Path) -> None:
    """In groups, whose schema is the first one's; without a row, without a column."""
    parquet = _pyarrow()
    import pyarrow

    writer = None
    batch: list[dict[str, Any]] = []

    def flush() -> None:
        nonlocal writer
        try:
            table = pyarrow.Table.from_pylist(batch, schema=writer.schema if writer else None)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError):
            raise StartError(
                "The rows are not all of one shape, which a Parquet file's columns need; export .jsonl."
            ) from None
        writer = writer or parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
        batch.clear()

    try:
        async for row in rows:
            batch.append(row)
            if len(batch) == _WRITTEN:
                flush()
        if batch or writer is None:
            flush()
    finally:
        if writer is not None:
            writer.close()


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise StartError("Parquet files need pyarrow: pip install 'hearken[parquet]'.") from None
    return pyarrow.parquet
