"""Group commit writes turns to Postgres: turns that end during one transaction share the next.

Each caller waits until its turn is durable. Under load many callers share one transaction; an idle service
writes each turn at once. A turn that began before its person was erased is not stored, nor one that its
person or the project does not want kept (`feedback.consent`).
"""

import asyncio
from datetime import UTC, datetime
from typing import LiteralString

import psycopg
from psycopg.types.json import Jsonb
from psycopg_pool import PoolTimeout

from schemas.database import AsyncPool
from schemas.turns import Turn, made_at

MAX_BATCH = 64
"""Turns in one transaction."""

_TURN: LiteralString = (
    "insert into turns (id, project, conversation_id, rater, key_id, messages, prompt_token_ids, sampling,"
    " metadata, request, origin) select %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s"
    " where not erased(%s, %s, %s) and may_store(%s, %s, %s)"
)
_REPLY: LiteralString = (
    "insert into replies (turn_id, choice, project, policy, propensity, text, token_ids, logprobs,"
    " finish_reason, message, seconds) select %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s"
    " where exists (select from turns where id = %s)"
)


class Turns:
    """A writer of turns. The caller owns `pool`."""

    def __init__(self, pool: AsyncPool) -> None:
        self._pool = pool
        self._waiting: list[tuple[Turn, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def record(self, turn: Turn) -> None:
        """Store a turn with its replies; durable on return. Raises psycopg.Error, PoolTimeout, and the error
        of a value that psycopg cannot adapt."""
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, durable))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        await durable

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                await self._insert([(turn, durable) for turn, durable in batch if not durable.cancelled()])
        finally:
            self._writing = None

    async def _insert(self, batch: list[tuple[Turn, asyncio.Future[None]]]) -> None:
        """Insert a batch and resolve each future: with its own error where a turn cannot be stored."""
        if not batch:
            return
        problem: Exception | None = None
        try:
            await self._transaction([turn for turn, _ in batch])
        except (psycopg.OperationalError, PoolTimeout) as error:
            problem = error
        except Exception as error:  # of one turn; the others are inserted one by one
            if len(batch) > 1:
                for each in batch:
                    await self._insert([each])
                return
            problem = error
        for _, durable in batch:
            if durable.done():
                continue
            if problem is None:
                durable.set_result(None)
            else:
                durable.set_exception(problem)

    async def _transaction(self, turns: list[Turn]) -> None:
        async with (
            self._pool.connection() as connection,
            connection.pipeline(),
            connection.transaction(),
            connection.cursor() as cursor,
        ):
            await cursor.executemany(
                _TURN,
                [
                    [
                        turn.id, turn.project, turn.conversation_id, turn.rater, turn.key_id,
                        Jsonb(turn.messages), turn.prompt_token_ids, Jsonb(turn.sampling),
                        Jsonb(turn.metadata), Jsonb(turn.request), turn.origin,
                        turn.project, turn.rater, _began(turn), turn.project, turn.rater, turn.key_id,
                    ]
                    for turn in turns
                ],
            )  # fmt: skip
            await cursor.executemany(
                _REPLY,
                [
                    [
                        turn.id, reply.choice, turn.project, reply.policy, reply.propensity, reply.text,
                        reply.token_ids, reply.logprobs, reply.finish_reason,
                        Jsonb(reply.message) if reply.message else None, reply.seconds, turn.id,
                    ]
                    for turn in turns
                    for reply in turn.replies
                ],
            )  # fmt: skip


def _began(turn: Turn) -> datetime:
    """Returns when a turn was asked; now, where its id does not say."""
    made = made_at(turn.id)
    return datetime.now(UTC) if made is None else datetime.fromtimestamp(made, UTC)
