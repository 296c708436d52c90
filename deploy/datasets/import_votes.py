"""Data sets in: the rows of a file in TRL's layouts become votes.

A row becomes a turn with the replies that it judges and one vote on them, kept as those of people are; a
ranking of two, or a thumb. Its id follows from the rater, the row and its place, so that a file that is
imported again, or was cut off, changes nothing that is there already.
"""

import asyncio
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jinja2 import TemplateError
from rich.console import Console
from rich.progress import Progress

from deploy.datasets.row_files import BrokenOff, read_file, size
from feedback.ballot import Ballot
from feedback.layouts import Judgement, Malformed, read
from feedback.store import Store
from feedback.turns import MOST
from schemas.database import AsyncPool, open_async_pool
from schemas.errors import StartError
from schemas.feedback import Vote, parse_vote
from schemas.settings import Settings
from schemas.turns import IMPORTED, Reply, Turn
from serving.auth import Seals
from serving.keys import ensure_seal

if TYPE_CHECKING:
    from trainer.model.tokenizer import Text

POLICY = "imported"
"""Whose replies they are: nobody's that serves here."""

NAMED = 100
"""Refused rows that a report names."""


@dataclass
class Report:
    """Rows that are in and rows that were left out; `refused` are the first NAMED of these, by number from 1,
    and why. `broken_off` says why the file was read no further, if it was not."""

    imported: int = 0
    left_out: int = 0
    refused: list[tuple[int, str]] = field(default_factory=list)
    broken_off: str | None = None

    @property
    def whole(self) -> bool:
        return not self.left_out and self.broken_off is None

    def refuse(self, number: int, reason: str) -> None:
        self.left_out += 1
        if len(self.refused) < NAMED:
            self.refused.append((number, reason))


async def import_file(settings: Settings, path: Path, rater: str) -> Report:
    """`settings` name the database, which has keys, and the base's directory. Raises StartError for a file
    that cannot be read at all."""
    from trainer.model.tokenizer import Text

    text = Text(Path(settings.model))
    report = Report()
    ready: list[Said] = []
    async with open_async_pool(settings.database_url or "") as pool:
        importer = await Importer.of(pool, settings.project, rater, text)
        with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
            task = progress.add_task(path.name, total=size(path))
            try:
                for row in read_file(path):
                    try:
                        if isinstance(row.found, Malformed):
                            raise row.found
                        ready.append(importer.said(row.number, read(row.found)))
                    except Malformed as error:
                        report.refuse(row.number, error.message)
                    if len(ready) == MOST:
                        report.imported += await importer.keep(ready)
                        ready.clear()
                    progress.update(task, completed=row.read)
            except BrokenOff as error:
                report.broken_off = error.message
            report.imported += await importer.keep(ready)
    return report


class Said(NamedTuple):
    """What a row becomes."""

    turn: Turn
    vote: Vote


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

    def said(self, number: int, judgement: Judgement) -> Said:
        """Raises Malformed where the base cannot hold the row."""
        seed = json.dumps([self._rater, number, judgement.row()], sort_keys=True)
        turn = self._turn(IMPORTED + hashlib.sha256(seed.encode()).hexdigest()[:32], judgement)
        return Said(turn, _vote(turn.id, judgement))

    async def keep(self, rows: Sequence[Said]) -> int:
        """Their turns in one transaction, and then their votes; returns how many rows. Of one that was
        imported before, what is not there yet."""
        voted = await self._voted([turn.id for turn, _ in rows])
        await asyncio.gather(*(self._store.record_turn(turn) for turn, _ in rows if turn.id not in voted))
        await asyncio.gather(
            *(
                self._store.submit(_ballot(turn), vote, self._rater)
                for turn, vote in rows
                if not voted.get(turn.id, False)
            )
        )
        return len(rows)

    async def _voted(self, turns: list[str]) -> dict[str, bool]:
        """Of these turns those that are there, and whether they have a vote, standing or not: what was taken
        back stays so."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "select id, exists (select from feedback where turn_id = turns.id) as voted"
                " from turns where id = any(%s)",
                [turns],
            )
            return {row["id"]: row["voted"] for row in await cursor.fetchall()}

    def _turn(self, id: str, judgement: Judgement) -> Turn:
        messages = [dict(message) for message in judgement.messages]
        try:
            prompt = self._text.render(messages)
        except TemplateError as error:
            raise Malformed(f"the base's chat template refuses it: {error}") from None
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
            messages=messages,
            prompt_token_ids=prompt,
            sampling={},
            replies=replies,
            metadata={"layout": "standard"} if judgement.standard else {},
        )


def _ballot(turn: Turn) -> Ballot:
    return Ballot(
        turn.id, turn.project, turn.conversation_id, turn.rater, turn.key_id, len(turn.prompt_token_ids),
        [reply.choice for reply in turn.replies],
    )  # fmt: skip


def _vote(completion_id: str, judgement: Judgement) -> Vote:
    if judgement.layout == "preference":
        return parse_vote({"completion_id": completion_id, "type": "ranking", "ranking": [[0], [1]]})
    value = "up" if judgement.good else "down"
    return parse_vote({"completion_id": completion_id, "type": "thumb", "value": value})
