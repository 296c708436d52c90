"""An automated rater: a model behind any OpenAI-compatible endpoint is asked, with a rubric, whether a reply
is good, and its verdict is a thumb like anybody's.

It votes under a name of its own, `judge:MODEL`, so the likelihood learns how far it agrees with people; all
judges together weigh no more than a share of what people do (`trainer.examples`), and their votes begin no
round. What it says late, or that is no verdict, is told to the log, and not asked for again.
Conversations leave the machine for the endpoint: it is off unless somebody names one.
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

from feedback.store import Store
from schemas.database import AsyncPool, open_async_pool
from schemas.errors import HearkenError
from schemas.feedback import JUDGE, Thumb
from schemas.settings import JudgeSettings, Settings
from schemas.turns import IMPORTED

AT_ONCE = 4
"""Replies that are judged side by side."""

PAUSE = 2.0
"""Seconds between looks when there was nothing to judge, or no way to."""

_FRESH = """
select r.turn_id, r.choice, r.text, t.messages
from turns t join replies r on r.turn_id = t.id
where t.project = %(project)s and t.created_at > now() - %(seconds)s * interval '1 second'
    and not starts_with(t.id, %(imported)s)
    and ('x' || left(md5(t.id), 8))::bit(32)::bigint < %(share)s * 4294967296
    and not (t.id || ' ' || r.choice) = any(%(passed)s)
    and not exists (
        select from feedback f where f.turn_id = t.id and f.rater = %(rater)s and f.choice = r.choice
    )
order by t.created_at desc, r.choice
limit %(limit)s
"""

log = structlog.get_logger("judge")


class Reply(NamedTuple):
    turn_id: str
    choice: int
    text: str
    messages: list[dict[str, Any]]


class NoVerdict(Exception):
    """The judge did not answer, or not with a verdict."""


class Judge:
    """Asks one model. `passed` are the replies that it gave no verdict on, and when it did not."""

    def __init__(
        self, settings: JudgeSettings, project: str, pool: AsyncPool, client: httpx.AsyncClient
    ) -> None:
        self.rater = JUDGE + settings.model
        self.passed: dict[str, float] = {}
        self._settings = settings
        self._project = project
        self._pool = pool
        self._store = Store(pool)
        self._client = client

    async def look(self) -> int:
        """Judge some of the newest replies; returns how many were looked at."""
        replies = await self._fresh()
        await asyncio.gather(*(self._judge(reply) for reply in replies))
        return len(replies)

    async def _fresh(self) -> Sequence[Reply]:
        oldest = time.monotonic() - self._settings.newest_seconds
        self.passed = {reply: when for reply, when in self.passed.items() if when > oldest}
        values = {
            "project": self._project,
            "imported": IMPORTED,
            "seconds": self._settings.newest_seconds,
            "share": self._settings.share,
            "passed": list(self.passed),
            "rater": self.rater,
            "limit": AT_ONCE,
        }
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_FRESH, values)
            return [Reply(**row) for row in await cursor.fetchall()]

    async def _judge(self, reply: Reply) -> None:
        try:
            good = await self._ask(reply)
        except NoVerdict as error:
            self.passed[f"{reply.turn_id} {reply.choice}"] = time.monotonic()
            log.warning("no verdict", turn=reply.turn_id, choice=reply.choice, reason=str(error))
            return
        ballot = await self._store.ballot(reply.turn_id)
        if ballot is None:
            return  # it was erased meanwhile
        vote = Thumb(
            type="thumb", completion_id=reply.turn_id, choice=reply.choice, value="up" if good else "down"
        )
        await self._store.submit(ballot, vote, self.rater)
        log.debug("judged", turn=reply.turn_id, choice=reply.choice, good=good)

    async def _ask(self, reply: Reply) -> bool:
        said = [f"{message['role']}: {_text(message.get('content'))}" for message in reply.messages]
        key = self._settings.key
        try:
            answer = await self._client.post(
                f"{str(self._settings.url).rstrip('/')}/chat/completions",
                headers={"Authorization": f"Bearer {key.get_secret_value()}"} if key else {},
                timeout=self._settings.timeout,
                json={
                    "model": self._settings.model,
                    "temperature": 0,
                    "messages": [
                        {"role": "system", "content": f"{self._settings.rubric}\n\n{_ANSWER}"},
                        {"role": "user", "content": "\n".join([*said, "", "The reply:", reply.text])},
                    ],
                },
            )
            answer.raise_for_status()
            return verdict(answer.json()["choices"][0]["message"]["content"])
        except httpx.HTTPError as error:
            raise NoVerdict(f"{type(error).__name__}: {error}") from None
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            raise NoVerdict(f"not a chat completion: {type(error).__name__}") from None


_ANSWER = "Judge the reply at the end. Answer with one word: good or bad."


def verdict(answer: str) -> bool:
    """Whether the judge says good. Raises NoVerdict for neither, or both."""
    found = {word.lower() for word in re.findall(r"\b(?:good|bad)\b", answer, re.IGNORECASE)}
    if len(found) != 1:
        raise NoVerdict(f"neither good nor bad: {answer[:80]!r}")
    return found == {"good"}


def _text(content: Any) -> str:
    """Of a message, whose parts other than text a judge does not see."""
    if isinstance(content, list):
        return " ".join(part["text"] for part in content if part.get("type") == "text")
    return str(content or "")


def run(settings: Settings, stopping: threading.Event) -> None:
    """Judge until `stopping`."""
    asyncio.run(_run(settings, stopping))


async def _run(settings: Settings, stopping: threading.Event) -> None:
    url = settings.database_url or ""
    async with open_async_pool(url, size=2) as pool, httpx.AsyncClient() as client:
        judge = Judge(settings.judge, settings.project, pool, client)
        log.info("judge ready", rater=judge.rater, url=settings.judge.url)
        while not stopping.is_set():
            try:
                judged = await judge.look()
            except (psycopg.OperationalError, PoolTimeout, HearkenError) as error:
                log.warning("judge waits", error=type(error).__name__)
                judged = 0
            if not judged:
                await asyncio.sleep(PAUSE)
