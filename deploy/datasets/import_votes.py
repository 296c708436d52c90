"""`hearken import` turns the rows of a preference data set (`feedback.dataset_rows`) into votes, or into
demonstrations.

Each row becomes a turn with its replies and one vote, a ranking of two or a thumb, stored like a person's. A
demonstration has no vote: its turn says that its reply is one. The turn's id is a hash of the rater, the
row's number and the row, so the import is idempotent: repeating one, or completing an interrupted one,
duplicates nothing.
"""

import asyncio
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from jinja2 import TemplateError
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from deploy.datasets.row_files import FileDamaged, file_size, read_file
from feedback.app_exports import AppExport, application_of
from feedback.dataset_rows import Columns, columns_of
from feedback.layouts import Judgement
from feedback.redaction import Redactor
from feedback.store import Store
from feedback.turns import MAX_BATCH
from feedback.votable_turn import VotableTurn
from schemas.database import AsyncPool, open_async_pool
from schemas.errors import MalformedRow, StartError
from schemas.feedback import Vote, parse_vote
from schemas.settings import Settings
from schemas.turns import DEMONSTRATION, IMPORTED, IMPORTED_POLICY, Reply, Turn
from schemas.users import MAX_NAME
from schemas.wire import strings
from serving.keys import ensure_signing_secret
from serving.token_signer import TokenSigner

if TYPE_CHECKING:
    from trainer.model.tokenizer import ChatTokenizer

Rater = Callable[[str | None], str]
"""The pseudonym of a person whom a row names; of the file's rater where it names none."""

MAX_REPORTED_ROWS = 100
"""Refused rows that a report lists, count."""


@dataclass
class ImportReport:
    """The number of rows `imported` and `left_out`. `refused` lists the first MAX_REPORTED_ROWS of the
    latter, each with its number, from 1, and the reason. `broken_off` says why the rest of the file was not
    read, and `layout` what its columns mean."""

    imported: int = 0
    left_out: int = 0
    refused: list[tuple[int, str]] = field(default_factory=list)
    broken_off: str | None = None
    layout: str | None = field(default=None, compare=False)

    @property
    def complete(self) -> bool:
        """Returns whether every row was imported."""
        return not self.left_out and self.broken_off is None

    def refuse(self, number: int, reason: str) -> None:
        """Counts a row as left out."""
        self.left_out += 1
        if len(self.refused) < MAX_REPORTED_ROWS:
            self.refused.append((number, reason))


class Source(Protocol):
    """What is imported: its name, its size in bytes if that is known, and what its rows mean."""

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int | None: ...
    @property
    def layout(self) -> str | None: ...

    def judgements(self) -> Iterator[tuple[int, Judgement | MalformedRow, int]]:
        """Yields the number of each row, its judgement or why it has none, and the bytes read so far. Raises
        StartError, and FileDamaged part of the way."""
        ...


class FileOfRows:
    """A file whose rows have one layout, that of the first; `metric` names what judges, where there are
    several, and a rating of at least `threshold` is good. The rows of a file of `demonstrations` must judge
    nothing."""

    def __init__(
        self,
        path: Path,
        metric: str | None = None,
        threshold: float | None = None,
        *,
        demonstrations: bool = False,
    ) -> None:
        self.name = path.name
        self.size = file_size(path)
        self.layout: str | None = None
        self._path = path
        self._metric = metric
        self._threshold = threshold
        self._columns: Columns | AppExport | None = None
        self._demonstrations = demonstrations

    def judgements(self) -> Iterator[tuple[int, Judgement | MalformedRow, int]]:
        for row in read_file(self._path):
            try:
                for found in self._read(row.value):
                    yield row.number, found, row.bytes_read
            except MalformedRow as error:
                yield row.number, error, row.bytes_read

    def _read(self, value: Any) -> list[Judgement]:
        if isinstance(value, MalformedRow):
            raise value
        if self._columns is None:
            found = application_of(value, self._metric, self._threshold)
            self._columns = found or columns_of(value, self._threshold)
            self.layout = str(self._columns)
        judged = self._columns.read(value)
        judgements = judged if isinstance(judged, list) else [judged]
        if self._demonstrations:
            return [demonstration_of(value, each) for each in judgements]
        return judgements


def demonstration_of(row: Any, judgement: Judgement) -> Judgement:
    """Returns what a row demonstrates; its column `user` names who wrote it. Raises MalformedRow for a row
    that judges a reply."""
    if judgement.layout != "prompt-completion":
        raise MalformedRow(f"it is no demonstration: its layout is {judgement.layout}")
    user = row.get("user") if isinstance(row, dict) else None
    if user is None:
        return replace(judgement, demonstrated=True)
    if not isinstance(user, str) or not 0 < len(user) <= MAX_NAME:
        raise MalformedRow(f"user must be a text of at most {MAX_NAME} characters")
    return replace(judgement, demonstrated=True, person=user)


async def import_file(
    settings: Settings, path: Path, rater: str, *, threshold: float | None = None, dry_run: bool = False
) -> ImportReport:
    """Imports a file of rows. Raises StartError if it cannot be read at all."""
    return await import_from(settings, FileOfRows(path, threshold=threshold), rater, dry_run=dry_run)


async def import_from(
    settings: Settings, source: Source, rater: str, *, dry_run: bool = False
) -> ImportReport:
    """Imports a source as votes of `rater`, or of the people whom it names. A dry run checks every row and
    stores nothing. The database of `settings` must have keys, and its model must be a directory. Raises
    StartError if the source cannot be read at all."""
    from trainer.model.tokenizer import ChatTokenizer

    tokenizer = ChatTokenizer(Path(settings.model))
    report = ImportReport()
    batch: list[ImportedRow] = []
    async with open_async_pool(settings.database_url or "") as pool:
        importer = await Importer.open(pool, settings, rater, tokenizer)
        with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
            task = progress.add_task(escape(source.name), total=source.size)
            try:
                for number, found, bytes_read in source.judgements():
                    try:
                        if isinstance(found, MalformedRow):
                            raise found
                        batch.append(importer.convert(number, found))
                    except MalformedRow as error:
                        report.refuse(number, error.message)
                    if len(batch) == MAX_BATCH:
                        await _store(importer, batch, report, dry_run=dry_run)
                        batch.clear()
                    progress.update(task, completed=bytes_read)
            except FileDamaged as error:
                report.broken_off = error.message
            await _store(importer, batch, report, dry_run=dry_run)
    report.layout = source.layout
    return report


async def _store(
    importer: "Importer", rows: "Sequence[ImportedRow]", report: ImportReport, *, dry_run: bool
) -> None:
    """Stores rows, and reports those whose people do not want them kept."""
    refusing = await importer.refusing(rows)
    for row in rows:
        if row.turn.rater in refusing:
            report.refuse(row.number, "its person chose not to be learned from")
    kept = [row for row in rows if row.turn.rater not in refusing]
    report.imported += len(kept) if dry_run else await importer.store(kept)


class ImportedRow(NamedTuple):
    """A row, by its number, as it is stored; a demonstration has no vote."""

    number: int
    turn: Turn
    vote: Vote | None


class Importer:
    """Converts rows to turns and votes of one rater in one project, and stores them."""

    def __init__(
        self,
        pool: AsyncPool,
        project: str,
        key_id: str,
        rater: Rater,
        tokenizer: "ChatTokenizer",
        redactor: Redactor | None = None,
    ) -> None:
        self._pool = pool
        self._store = Store(pool)
        self._project = project
        self._key_id = key_id
        self._rater = rater
        self._tokenizer = tokenizer
        self._redactor = redactor

    @classmethod
    async def open(
        cls, pool: AsyncPool, settings: Settings, rater: str, tokenizer: "ChatTokenizer"
    ) -> "Importer":
        """Looks up the project's admin key, under which the turns are stored. Raises StartError without
        one."""
        project, redaction = settings.project, settings.redaction
        async with pool.connection() as connection:
            signer = TokenSigner(await ensure_signing_secret(connection))
            cursor = await connection.execute(
                "select k.id, p.redaction from keys k join projects p on p.id = k.project"
                " where k.project = %s and k.kind = 'admin' and k.revoked_at is null"
                " order by k.created_at limit 1",
                [project],
            )
            row = await cursor.fetchone()
        if row is None:
            raise StartError(f"The project {project} has no admin key.")

        def pseudonym(person: str | None) -> str:
            return signer.rater_id(project, person or rater, "admin")

        kinds = redaction.kinds if row["redaction"] is None else row["redaction"]
        pseudonymise = signer.conversation_pseudonym
        redactor = Redactor(kinds, redaction.regions, pseudonymise) if kinds else None
        return cls(pool, project, row["id"], pseudonym, tokenizer, redactor)

    def convert(self, number: int, judgement: Judgement) -> ImportedRow:
        """Returns the row's turn and vote. Raises MalformedRow if the base's template or context refuses
        it."""
        place = judgement.key or number
        kind = [DEMONSTRATION] if judgement.demonstrated else []
        seed = json.dumps([self._rater(judgement.person), place, judgement.row(), *kind], sort_keys=True)
        turn = self._turn(IMPORTED + hashlib.sha256(seed.encode()).hexdigest()[:32], judgement)
        vote = None if judgement.demonstrated else _vote(turn.id, judgement)
        return ImportedRow(number, turn, vote)

    async def refusing(self, rows: Sequence[ImportedRow]) -> set[str]:
        """Returns the pseudonyms of those who do not want to be learned from."""
        raters = sorted({row.turn.rater for row in rows})
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "select rater from unnest(%s::text[]) as rater where not may_store(%s, rater, %s)",
                [raters, self._project, self._key_id],
            )
            return {row["rater"] for row in await cursor.fetchall()}

    async def store(self, rows: Sequence[ImportedRow]) -> int:
        """Stores the turns in one transaction, then the votes, each where it is missing and without what the
        project redacts. Returns the number of rows."""
        if self._redactor is not None:
            rows = await asyncio.to_thread(self._redacted, self._redactor, rows)
        voted = await self._voted([row.turn.id for row in rows])
        await asyncio.gather(*(self._store.record_turn(row.turn) for row in rows if row.turn.id not in voted))
        await asyncio.gather(
            *(
                self._store.submit(_votable(turn), vote, turn.rater)
                for _, turn, vote in rows
                if vote is not None and not voted.get(turn.id, False)
            )
        )
        return len(rows)

    @staticmethod
    def _redacted(redactor: Redactor, rows: Sequence[ImportedRow]) -> list[ImportedRow]:
        return [
            ImportedRow(number, redactor.turn(turn), vote and redactor.vote(vote))
            for number, turn, vote in rows
        ]

    async def _voted(self, turns: list[str]) -> dict[str, bool]:
        """Returns the turns that are stored, and whether each has a vote, active or not: a retracted vote is
        not imported again."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "select id, exists (select from feedback where turn_id = turns.id) as voted"
                " from turns where id = any(%s)",
                [turns],
            )
            return {row["id"]: row["voted"] for row in await cursor.fetchall()}

    def _turn(self, id: str, judgement: Judgement) -> Turn:
        if (size := _bytes(judgement)) > self._tokenizer.most_bytes:
            raise MalformedRow(
                f"it has {size:,} bytes, more than the model's context of {self._tokenizer.context_length}"
                " tokens can hold"
            )
        try:
            prompt = self._tokenizer.render(judgement.messages, judgement.tools)
            replies = [self._reply(choice, judgement) for choice in range(len(judgement.replies))]
        except (TemplateError, TypeError, ValueError) as error:  # a template may not expect what it is given
            raise MalformedRow(f"the base's chat template refuses it: {error}") from None
        longest = len(prompt) + max(len(reply.token_ids) for reply in replies)
        if longest > self._tokenizer.context_length:
            raise MalformedRow(
                f"it is {longest} tokens long, and the model's context is {self._tokenizer.context_length}"
            )
        return Turn(
            id=id,
            project=self._project,
            conversation_id=id,
            rater=self._rater(judgement.person),
            key_id=self._key_id,
            messages=judgement.messages,
            prompt_token_ids=prompt,
            sampling={},
            replies=replies,
            metadata=({"layout": "standard"} if judgement.standard else {})
            | ({"model": judgement.model[:512]} if judgement.model else {}),
            request=({"tools": judgement.tools} if judgement.tools else {})
            | ({DEMONSTRATION: True} if judgement.demonstrated else {}),
        )

    def _reply(self, choice: int, judgement: Judgement) -> Reply:
        """Returns a reply with its tokens: those of its text, or, with tool calls or a thought, those that
        the template writes."""
        reply, text = judgement.replies[choice], judgement.texts[choice]
        if reply.keys() <= {"role", "content"}:
            tokens = self._tokenizer.encode_reply(text, keep_markers=True)
            return Reply(choice, IMPORTED_POLICY, 1.0, text, tokens, [], "stop")
        tokens = self._tokenizer.encode_message(judgement.messages, reply, judgement.tools)
        ended = "tool_calls" if "tool_calls" in reply else "stop"
        return Reply(choice, IMPORTED_POLICY, 1.0, text, tokens, [], ended, reply)


def _bytes(judgement: Judgement) -> int:
    """Returns how many bytes a judgement's texts have."""
    size = sum(len(text.encode()) for text in strings(judgement.tools))
    for message in (*judgement.messages, *judgement.replies):
        texts = [message.get("content") or "", message.get("reasoning_content") or ""]
        texts += [call["function"]["arguments"] for call in message.get("tool_calls", ())]
        size += sum(len(text.encode()) for text in texts)
    return size


def _votable(turn: Turn) -> VotableTurn:
    return VotableTurn(
        turn.id, turn.project, turn.rater, turn.key_id, len(turn.prompt_token_ids),
        [reply.choice for reply in turn.replies],
    )  # fmt: skip


def _vote(completion_id: str, judgement: Judgement) -> Vote:
    vote: dict[str, object] = {"completion_id": completion_id}
    if judgement.comment:
        vote["comment"] = judgement.comment[:10_000]
    if judgement.layout == "preference":
        ranking = [[0, 1]] if judgement.tie else [[0], [1]]
        ranked = {"type": "ranking", "ranking": ranking, "acceptable": judgement.acceptable}
        return parse_vote({**vote, **ranked})
    value = "up" if judgement.good else "down"
    return parse_vote({**vote, "type": "thumb", "value": value, "reasons": list(judgement.reasons)})
