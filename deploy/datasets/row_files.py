"""Row files are JSON Lines or Parquet (by suffix), read as a stream and written atomically."""

import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from feedback.export import line as json_line
from schemas.errors import HearkenError, MalformedRow, StartError

_READ_BATCH, _WRITE_BATCH = 64, 1_000  # rows of a Parquet file in memory


class Row(NamedTuple):
    """A row of a file. `number` counts from 1, by line in JSON Lines. `value` is MalformedRow if the line is
    not JSON. `bytes_read` is the position in the file; of a Parquet file, the same share of its size as of
    its rows.
    """

    number: int
    value: Any
    bytes_read: int


class FileDamaged(HearkenError):
    """Raised when the rest of a file cannot be read. The rows before it are imported: repair it and
    repeat."""


def file_size(path: Path) -> int:
    """Returns the size in bytes. Raises StartError if there is no such file."""
    if not path.is_file():
        raise StartError(f"There is no file {path}.")
    return path.stat().st_size


def read_file(path: Path) -> Iterator[Row]:
    """Yields the rows of a file. Raises StartError if it cannot be read at all, FileDamaged part of the
    way."""
    return _read_parquet(path) if path.suffix == ".parquet" else _read_lines(path)


def _read_lines(path: Path) -> Iterator[Row]:
    """Yields the rows of a JSON Lines file; blank lines are skipped."""
    read = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            read += len(line)
            if line.isspace():
                continue
            try:
                yield Row(number, json.loads(line), read)
            except ValueError:
                yield Row(number, MalformedRow("it is not JSON"), read)
            except RecursionError:
                yield Row(number, MalformedRow("it is nested too deeply"), read)


def _read_parquet(path: Path) -> Iterator[Row]:
    parquet = _pyarrow()
    from pyarrow import ArrowException

    size, read = file_size(path), 0
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
                yield Row(read, value, size * read // file.metadata.num_rows)


async def write_file(rows: AsyncIterator[dict[str, Any]], path: Path | None) -> None:
    """Writes JSON Lines, to standard output without a path, or Parquet, by the path's suffix. A file appears
    only when it is complete."""
    if path is None:
        async for row in rows:
            sys.stdout.write(json_line(row))
        return
    with _atomic(path) as draft:
        if path.suffix == ".parquet":
            await _write_parquet(rows, draft)
            return
        with draft.open("w", encoding="utf-8") as file:
            async for row in rows:
                file.write(json_line(row))


@contextmanager
def _atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary file beside `path` that replaces it after the block ends without an error. A pipe or
    a device is written directly."""
    if path.exists() and not path.is_file():
        yield path
        return
    path = path.resolve()  # a symbolic link keeps its target
    draft = path.with_name(f".{path.name}.draft")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


async def _write_parquet(rows: AsyncIterator[dict[str, Any]], path: Path) -> None:
    """Writes in batches; the first one sets the schema. Without rows the file has no columns."""
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
                "The rows do not all have the same columns, which Parquet needs. Export .jsonl instead."
            ) from None
        writer = writer or parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
        batch.clear()

    try:
        async for row in rows:
            batch.append(row)
            if len(batch) == _WRITE_BATCH:
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
