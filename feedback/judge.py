"""LLM-as-a-judge: a model behind an OpenAI-compatible endpoint rates replies by a rubric, and its verdicts
are stored as thumbs.

It votes under its own name, `judge:MODEL`, so the likelihood learns how far it agrees with people. The weight
of all judges is capped at a share of the people's (`trainer.data.examples`), and their votes start no round.
A late answer, or one without a verdict, is logged and not requested again. A reply that calls
tools is not judged: what it says is in the calls. Conversations are sent to the endpoint, so there is no
judge unless one is configured.
"""

import asyncio
import re
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import httpx
import psycopg
import structlog
from psycopg_pool import PoolTimeout

from feedback.comment_judge import CommentJudge
from feedback.judge_client import CONCURRENCY, NoVerdict, ask
from feedback.store import Store
from schemas.database import AsyncPool, open_async_pool
from schemas.errors import HearkenError
from schemas.feedback import JUDGE, Thumb
from schemas.settings import JudgeSettings, Settings
from schemas.turns import IMPORTED

PAUSE = 2.0
"""Seconds between attempts when there was nothing to judge, or the database was unavailable."""

_FRESH = """
select r.turn_id, r.choice, r.text, t.messages
from turns t join replies r on r.turn_id = t.id
where t.project = %(project)s and t.created_at > now() - %(seconds)s * interval '1 second'
    and not starts_with(t.id, %(imported)s)
    and not coalesce(r.message ? 'tool_calls', false)
    and ('x' || left(md5(t.id), 8))::bit(32)::bigint < %(share)s * 4294967296
    and not (t.id || ' ' || r.choice) = any(%(skipped)s)
    and not exists (
        select from feedback f where f.turn_id = t.id and f.rater = %(rater)s and f.choice = r.choice
    )
order by t.created_at desc, r.choice
limit %(limit)s
"""

log = structlog.get_logger("judge")


class Reply(NamedTuple):
    """A reply to judge, with the messages before it."""

    turn_id: str
    choice: int
    text: str
    messages: list[dict[str, Any]]


class Judge:
    """A judge that asks one model. `skipped` holds the replies without a verdict, with the time of asking."""

    def __init__(
        self, settings: JudgeSettings, project: str, pool: AsyncPool, client: httpx.AsyncClient
    ) -> None:
        self.rater = JUDGE + settings.model
        self.skipped: dict[str, float] = {}
        self._settings = settings
        self._project = project
        self._pool = pool
        self._store = Store(pool)
        self._client = client

    async def judge_batch(self) -> int:
        """Judge some of the newest replies; returns how many were attempted."""
        replies = await self._fresh()
        await asyncio.gather(*(self._judge(reply) for reply in replies))
        return len(replies)

    async def _fresh(self) -> Sequence[Reply]:
        oldest = time.monotonic() - self._settings.newest_seconds
        self.skipped = {reply: when for reply, when in self.skipped.items() if when > oldest}
        values = {
            "project": self._project,
            "imported": IMPORTED,
            "seconds": self._settings.newest_seconds,
            "share": self._settings.share,
            "skipped": list(self.skipped),
            "rater": self.rater,
            "limit": CONCURRENCY,
        }
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_FRESH, values)
            return [Reply(**row) for row in await cursor.fetchall()]

    async def _judge(self, reply: Reply) -> None:
        try:
            good = await self._ask(reply)
        except NoVerdict as error:
            self.skipped[f"{reply.turn_id} {reply.choice}"] = time.monotonic()
            log.warning("no verdict", turn=reply.turn_id, choice=reply.choice, reason=str(error))
            return
        votable = await self._store.votable_turn(reply.turn_id)
        if votable is None:
            return  # erased meanwhile
        vote = Thumb(
            type="thumb", completion_id=reply.turn_id, choice=reply.choice, value="up" if good else "down"
        )
        await self._store.submit(votable, vote, self.rater)
        log.debug("judged", turn=reply.turn_id, choice=reply.choice, good=good)

    async def _ask(self, reply: Reply) -> bool:
        said = [f"{message['role']}: {_text(message.get('content'))}" for message in reply.messages]
        system = f"{self._settings.rubric}\n\n{_ANSWER}"
        question = "\n".join([*said, "", "The reply:", reply.text])
        return verdict(await ask(self._client, self._settings, system, question))


_ANSWER = "Judge the reply at the end. Answer with one word: good or bad."


def verdict(answer: str) -> bool:
    """Returns whether the answer is "good". Raises NoVerdict if it names neither or both."""
    found = {word.lower() for word in re.findall(r"\b(?:good|bad)\b", answer, re.IGNORECASE)}
    if len(found) != 1:
        raise NoVerdict(f"neither good nor bad: {answer[:80]!r}")
    return found == {"good"}


def _text(content: Any) -> str:
    """Returns the text of a message's content, without its other parts."""
    if isinstance(content, list):
        return " ".join(part["text"] for part in content if part.get("type") == "text")
    return str(content or "")


def run(settings: Settings, stopping: threading.Event) -> None:
    """Judge replies, and read comments, until `stopping` is set."""
    asyncio.run(_run(settings, stopping))


async def _run(settings: Settings, stopping: threading.Event) -> None:
    url = settings.database_url or ""
    async with open_async_pool(url, size=2) as pool, httpx.AsyncClient() as client:
        judge = Judge(settings.judge, settings.project, pool, client)
        comments = CommentJudge(settings.judge, settings.project, pool, client)
        log.info("judge ready", rater=judge.rater, url=settings.judge.url)
        while not stopping.is_set():
            try:
                judged = await judge.judge_batch() + await comments.read_batch()
            except (psycopg.OperationalError, PoolTimeout, HearkenError) as error:
                log.warning("judge waits", error=type(error).__name__)
                judged = 0
            if not judged:
                await asyncio.sleep(PAUSE)
