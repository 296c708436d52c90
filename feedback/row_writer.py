"""Rows are written as JSON Lines or Parquet, by the ending of a file's name; the file appears whole or not at
all."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from feedback.object_store import delete, is_url, upload
from schemas.errors import StartError
from schemas.files import fsync
from schemas.wire import json_line

PARQUET = ".parquet"
_BATCH, _ROW_GROUP = 100, 20
"""Rows of a Parquet file that are converted at once, and such batches that are written at once."""

Row = dict[str, Any]


async def write_rows(
    rows: AsyncIterator[Row], output: Path | str | None, columns: Mapping[str, str] | None = None
) -> None:
    """Writes JSON Lines, to standard output where none is named, or Parquet, to a file or a URL of an object
    store. Parquet's columns are `columns` (text, texts, number, truth or messages), or those of the first
    row; what is no text in a column of texts is JSON. Raises StartError where nothing can be written."""
    try:
        if output is None:
            async for row in rows:
                sys.stdout.write(line(row))
            return
        with draft_of(str(output)) as draft:
            if draft != Path(output):
                draft.touch(0o600)  # it will hold what people wrote
            await write_draft(rows, draft, columns)
            await publish(draft, str(output))
    except ConnectionError:  # of the database, or of a pipe
        raise
    except OSError as error:
        raise StartError(
            f"{output or 'standard output'} cannot be written: {error.strerror or error}"
        ) from None


@contextmanager
def draft_of(output: str) -> Iterator[Path]:
    """Yields where to write what will be `output`: beside it, or in a temporary folder where it is a URL. A
    pipe or a device is written directly."""
    if is_url(output):
        with TemporaryDirectory() as folder:
            yield Path(folder) / output.rpartition("/")[2]
        return
    path = Path(output)
    if path.exists() and not path.is_file():
        yield path
        return
    path = path.resolve()
    for left in path.parent.glob(f".{escape(path.name)}.*"):  # by a process that died
        left.unlink(missing_ok=True)
    draft = path.with_name(f".{path.name}.{uuid4().hex}{path.suffix}")
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)


async def write_draft(
    rows: AsyncIterator[Row], draft: Path, columns: Mapping[str, str] | None = None
) -> None:
    """Writes rows into a draft, by its ending. Raises OSError, StartError."""
    if draft.suffix == PARQUET:
        await _write_parquet(rows, draft, columns)
        return
    with draft.open("w", encoding="utf-8") as file:
        async for row in rows:
            file.write(line(row))


async def publish(draft: Path, output: str) -> None:
    """Makes a draft the file, or the object, that it is the draft of; it is durable then. Raises OSError,
    StartError."""
    if is_url(output):
        await upload(draft, output)
        return
    if draft != Path(output):
        await asyncio.to_thread(_replace, draft, Path(output))


async def remove(output: str) -> None:
    """Deletes a file or an object, if there is one. Raises OSError, StartError."""
    if is_url(output):
        await delete(output)
        return
    await asyncio.to_thread(Path(output).unlink, missing_ok=True)


def _replace(draft: Path, path: Path) -> None:
    path = path.resolve()  # a symbolic link keeps its target
    if path.exists():
        draft.chmod(path.stat().st_mode & 0o777)  # who may read it is its owner's decision
    fsync(draft)
    draft.replace(path)
    fsync(path.parent)


def line(row: Row) -> str:
    return json_line(row).decode() + "\n"


def pyarrow_for(what: str) -> Any:
    """Returns the module. Raises StartError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise StartError(f"{what} need pyarrow: pip install 'hearken[parquet]'.") from None
    return pyarrow


async def _write_parquet(rows: AsyncIterator[Row], path: Path, columns: Mapping[str, str] | None) -> None:
    """Writes row groups. Without `columns`, a file without rows has none."""
    pyarrow = pyarrow_for("Parquet files")
    first = await anext(rows, None)
    columns = columns or _columns_of(first or {})
    schema = pyarrow.schema([(name, _types(pyarrow)[kind]) for name, kind in columns.items()])
    records = [] if first is None else [_record(first, columns)]
    batches: list[Any] = []

    def convert() -> None:
        batches.append(pyarrow.RecordBatch.from_pylist(records, schema))
        records.clear()

    def flush() -> None:
        writer.write_table(pyarrow.Table.from_batches(batches, schema))
        batches.clear()

    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        try:
            async for row in rows:
                records.append(_record(row, columns))
                if len(records) == _BATCH:
                    convert()
                if len(batches) == _ROW_GROUP:
                    await asyncio.to_thread(flush)
            convert()
            await asyncio.to_thread(flush)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, AttributeError):
            raise StartError(
                "The rows do not all have the same columns, which Parquet needs. Export .jsonl instead."
            ) from None


def _types(pyarrow: Any) -> dict[str, Any]:
    """Returns Arrow's types of the kinds of columns."""
    text = pyarrow.string()
    function = pyarrow.struct([("name", text), ("arguments", text)])
    call = pyarrow.struct([("id", text), ("type", text), ("function", function)])
    texts = ("role", "content", "name", "reasoning_content", "tool_call_id")
    fields = [*((name, text) for name in texts), ("tool_calls", pyarrow.list_(call))]
    return {
        "text": text,
        "texts": pyarrow.list_(text),
        "number": pyarrow.int64(),
        "truth": pyarrow.bool_(),
        "messages": pyarrow.list_(pyarrow.struct(fields)),
    }


def _columns_of(row: Row) -> dict[str, str]:
    """Returns the columns that a row and those like it need."""
    kinds = {name: _kind(value) for name, value in row.items()}
    return kinds | {"tools": "text"} if "messages" in kinds.values() else kinds


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "truth"
    return "messages" if isinstance(value, list) else "text"


def _record(row: Row, columns: Mapping[str, str]) -> Row:
    """Returns a row as Arrow takes it."""
    return {name: _value(row.get(name), kind) for name, kind in columns.items()}


def _value(value: Any, kind: str) -> Any:
    if kind == "messages":
        return [_message(message) for message in value]
    return _text(value) if kind == "text" else value


def _message(message: Row) -> Row:
    calls = message.get("tool_calls")
    if not calls:
        return message
    written = [{**call, "function": {k: _text(v) for k, v in call["function"].items()}} for call in calls]
    return {**message, "tool_calls": written}


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json_line(value).decode()
