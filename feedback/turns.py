"""Turns on their way into Postgres: those that end while one transaction is under way share the next.

Whoever records a turn waits until it is durable, so nothing that was promised is lost; under load many waits
cost one transaction, and a quiet service writes each turn at once.
"""

import asyncio
from typing import LiteralString

import psycopg
from psycopg.types.json import Jsonb
from psycopg_pool import PoolTimeout

from schemas.database import AsyncPool
from schemas.turns import Turn

MOST = 64
"""Turns in one transaction."""

_TURN: LiteralString = (
    "insert into turns (id, project, conversation_id, rater, key_id, messages, prompt_token_ids, sampling,"
    " metadata) values (%s, %s, %s, %s, %s, %s, %s, %s, %s)"
)
_REPLY: LiteralString = (
    "insert into replies (turn_id, choice, project, policy, propensity, text, token_ids, logprobs,"
    " finish_reason) values (%s, %s, %s, %s, %s, %s, %s, %s, %s)"
)


class Turns:
    """Shares `pool` with whoever opened it."""

    def __init__(self, pool: AsyncPool) -> None:
        self._pool = pool
        self._waiting: list[tuple[Turn, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def record(self, turn: Turn) -> None:
        """Keep a turn with its replies; durable on return. Raises psycopg.Error and PoolTimeout, and
        whatever a value says that cannot be written."""
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, durable))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        await durable

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                await self._insert([(turn, durable) for turn, durable in batch if not durable.cancelled()])
        finally:
            self._writing = None

    async def _insert(self, batch: list[tuple[Turn, asyncio.Future[None]]]) -> None:
        """Every one of them, or of those that cannot be kept the error, to who waits for it."""
        if not batch:
            return
        problem: Exception | None = None
        try:
            await self._transaction([turn for turn, _ in batch])
        except (psycopg.OperationalError, PoolTimeout) as error:
            problem = error
        except (
            Exception
        ) as error:  # of one turn, which must neither take the others with it nor leave them waiting
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
                        Jsonb(turn.metadata),
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
                    ]
                    for turn in turns
                    for reply in turn.replies
                ],
            )  # fmt: skip
