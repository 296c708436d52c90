"""Data sets in and out: files of rows in TRL's layouts, as JSON lines or Parquet.

A row becomes a turn with the replies that it judges and one vote on them, kept as those of people are; a
ranking of two, or a thumb. Its id follows from the rater, the row and its place, so that a file that is
imported again, or was cut off, changes nothing that is there already.
"""

import hashlib
import json
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psycopg.errors import UniqueViolation
from rich.console import Console
from rich.progress import Progress

from feedback.export import line
from feedback.layouts import Judgement, Malformed, read
from feedback.store import Store
from schemas.database import AsyncPool, open_async_pool
from schemas.errors import StartError
from schemas.feedback import Vote, parse_vote
from schemas.settings import Settings
from schemas.turns import Reply, Turn
from serving.auth import Seals
from serving.keys import ensure_seal

if TYPE_CHECKING:
    from trainer.text import Text

POLICY = "imported"
"""Whose replies they are: nobody's that serves here."""
_PARQUET_ROWS = 1_000  # at once


@dataclass
class Report:
    """`refused` are the numbers of the rows that were left out, from 1, and why."""

    imported: int = 0
    refused: list[tuple[int, str]] = field(default_factory=list)


async def import_file(settings: Settings, path: Path, rater: str) -> Report:
    """`settings` name the database, which has keys, and the base's directory. Raises StartError for a file
    that cannot be read at all."""
    from trainer.text import Text

    text = Text(Path(settings.model))
    report = Report()
    async with open_async_pool(settings.database_url or "") as pool:
        importer = await Importer.of(pool, settings.project, rater, text)
        with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
            task = progress.add_task(path.name, total=_size(path))
            for number, (row, share) in enumerate(_rows(path), 1):
                try:
                    if isinstance(row, Malformed):
                        raise row
                    await importer.take(number, read(row))
                    report.imported += 1
                except Malformed as error:
                    report.refused.append((number, error.message))
                progress.update(task, completed=share)
    return report


class Importer:
    def __init__(self, pool: AsyncPool, project: str, key_id: str, rater: str, text: "Text") -> None:
        self._pool = pool
        self._store = Store(pool)
        self._project = project
        self._key_id = key_id
        self._rater = rater
        self._text = text

    @classmethod
    async def of(cls, pool: AsyncPool, project: str, rater: str, text: "Text") -> "Importer":
        async with pool.connection() as connection:
            seals = Seals(await ensure_seal(connection))
            cursor = await connection.execute(
                "select id from keys where project = %s and kind = 'admin' and revoked_at is null"
                " order by created_at limit 1",
                [project],
            )
            row = await cursor.fetchone()
        if row is None:
            raise StartError(f"The project {project} has no admin key.")
        return cls(pool, project, row["id"], seals.rater(project, rater, "admin"), text)

    async def take(self, number: int, judgement: Judgement) -> None:
        """Keep one row. Raises Malformed where the base cannot hold it."""
        said = json.dumps([self._rater, number, judgement.row()], sort_keys=True)
        digest = hashlib.sha256(said.encode())
        turn = self._turn(f"chatcmpl-i{digest.hexdigest()[:32]}", judgement)
        try:
            await self._store.record_turn(turn)
        except UniqueViolation:  # it was imported before; perhaps its vote was not
            if await self._has_vote(turn.id):
                return
        ballot = await self._store.ballot(turn.id)
        assert ballot is not None  # noqa: S101  (it was just recorded)
        await self._store.submit(ballot, _vote(turn.id, judgement), self._rater)

    async def _has_vote(self, turn_id: str) -> bool:
        """Standing or not: what was taken back stays so."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute("select from feedback where turn_id = %s limit 1", [turn_id])
            return await cursor.fetchone() is not None

    def _turn(self, id: str, judgement: Judgement) -> Turn:
        prompt = self._text.render([dict(message) for message in judgement.messages])
        replies = [
            Reply(choice, POLICY, 1.0, reply, self._text.encode_reply(reply), [], "stop")
            for choice, reply in enumerate(judgement.replies)
        ]
        longest = len(prompt) + max(len(reply.token_ids) for reply in replies)
        if longest > self._text.context:
            raise Malformed(f"it is {longest} tokens long, and the model's context is {self._text.context}")
        return Turn(
            id=id,
            project=self._project,
            conversation_id=id,
            rater=self._rater,
            key_id=self._key_id,
            messages=[dict(message) for message in judgement.messages],
            prompt_token_ids=prompt,
            sampling={},
            replies=replies,
            metadata={"layout": "standard"} if judgement.standard else {},
        )


def _vote(completion_id: str, judgement: Judgement) -> Vote:
    if judgement.layout == "preference":
        return parse_vote({"completion_id": completion_id, "type": "ranking", "ranking": [[0], [1]]})
    value = "up" if judgement.good else "down"
    return parse_vote({"completion_id": completion_id, "type": "thumb", "value": value})


def _size(path: Path) -> int:
    """Bytes. Raises StartError."""
    if not path.is_file():
        raise StartError(f"There is no file {path}.")
    return path.stat().st_size


def _rows(path: Path) -> Iterator[tuple[Any, int]]:
    """Each row, or what is wrong with it, and how many bytes of the file are behind us. Raises StartError."""
    if path.suffix == ".parquet":
        parquet = _pyarrow()
        try:
            file = parquet.ParquetFile(path)
        except (OSError, ValueError) as error:
            raise StartError(f"{path} is no Parquet file: {error}") from None
        read, size = 0, _size(path)
        for batch in file.iter_batches(_PARQUET_ROWS):
            for row in batch.to_pylist():
                read += 1
                yield row, size * read // max(1, file.metadata.num_rows)
        return
    read = 0
    with path.open("rb") as lines:
        for found in lines:
            read += len(found)
            try:
                yield json.loads(found), read
            except ValueError:
                yield Malformed("it is no JSON"), read


async def write_file(rows: AsyncIterator[dict[str, Any]], path: Path | None) -> None:
    """As JSON lines, to standard output without a path; or as Parquet, by the path's ending."""
    if path is not None and path.suffix == ".parquet":
        await _write_parquet(rows, path)
        return
    file = sys.stdout if path is None else path.open("w", encoding="utf-8")
    try:
        async for row in rows:
            file.write(line(row))
    finally:
        if path is not None:
            file.close()


async def _write_parquet(rows: AsyncIterator[dict[str, Any]], path: Path) -> None:
    """In groups, whose schema is the first one's."""
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
            if len(batch) == _PARQUET_ROWS:
                flush()
        if batch:
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
