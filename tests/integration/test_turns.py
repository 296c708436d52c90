"""Turns are written by group commit: each is durable when `record` returns, or refused by itself."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import psycopg
import pytest
from psycopg.sql import SQL
from psycopg.types.json import Jsonb
from psycopg_pool import PoolTimeout

from feedback import stored_turns
from feedback.turns import Turns
from schemas.database import AsyncPool, open_async_pool
from tests.voting import a_turn, add_keys


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[AsyncPool]:
    async with open_async_pool(database_url, size=2) as pool:
        await add_keys(pool)
        yield pool


async def transactions(pool: AsyncPool) -> dict[str, str]:
    """Returns the transaction that wrote each turn."""
    async with pool.connection() as connection:
        cursor = await connection.execute("select id, xmin::text as wrote from turns")
        return {row["id"]: row["wrote"] for row in await cursor.fetchall()}


async def test_turns_that_end_together_share_a_transaction(pool: AsyncPool) -> None:
    turns = Turns(pool)
    await asyncio.gather(*(turns.record(a_turn(f"chatcmpl-{number}")) for number in range(40)))
    wrote = await transactions(pool)
    assert len(wrote) == 40
    assert len(set(wrote.values())) < 5


async def test_each_is_durable_when_record_returns(pool: AsyncPool) -> None:
    turns = Turns(pool)

    async def one(number: int) -> bool:
        await asyncio.sleep(number % 7 / 1000)
        await turns.record(a_turn(f"chatcmpl-{number}"))
        return f"chatcmpl-{number}" in await transactions(pool)

    assert all(await asyncio.gather(*map(one, range(60))))


async def test_a_turn_that_cannot_be_stored_is_refused_alone(pool: AsyncPool) -> None:
    turns = Turns(pool)
    twice = a_turn("chatcmpl-twice")
    twice = replace(twice, replies=twice.replies * 2)  # the same choice two times
    broken = a_turn("chatcmpl-broken", replies=("half a pair: \ud83d",))
    batch = [a_turn("chatcmpl-1"), twice, broken, a_turn("chatcmpl-2")]
    recording = asyncio.gather(*map(turns.record, batch), return_exceptions=True)
    answers = await asyncio.wait_for(recording, 10)
    assert answers[0] is answers[3] is None
    assert isinstance(answers[1], psycopg.errors.UniqueViolation)
    assert isinstance(answers[2], UnicodeEncodeError)
    assert set(await transactions(pool)) == {"chatcmpl-1", "chatcmpl-2"}


async def test_a_cancelled_caller_leaves_the_others(pool: AsyncPool) -> None:
    turns = Turns(pool)
    waiting = [asyncio.create_task(turns.record(a_turn(f"chatcmpl-{number}"))) for number in range(5)]
    await asyncio.sleep(0)
    waiting[3].cancel()
    done = await asyncio.gather(*waiting, return_exceptions=True)
    assert [isinstance(answer, asyncio.CancelledError) for answer in done] == [
        False,
        False,
        False,
        True,
        False,
    ]
    assert {"chatcmpl-0", "chatcmpl-1", "chatcmpl-2", "chatcmpl-4"} <= set(await transactions(pool))


async def test_a_database_that_is_away_is_told_to_all(database_url: str) -> None:
    async with open_async_pool(database_url, size=1) as pool:
        pool.timeout = 0.2
        async with pool.connection():  # the only one
            answers = await asyncio.gather(
                *(Turns(pool).record(a_turn(f"chatcmpl-{number}")) for number in range(3)),
                return_exceptions=True,
            )
    assert [type(answer) for answer in answers] == [PoolTimeout] * 3


async def test_turns_are_found_by_their_metadata_with_its_index(pool: AsyncPool, database_url: str) -> None:
    async with pool.connection() as connection:
        await connection.execute(
            "insert into turns (id, project, conversation_id, rater, key_id, messages, prompt_token_ids,"
            " sampling, metadata) select 'chatcmpl-' || n, 'default', 'c', 'u_ada', 'default-admin', '[]',"
            " '{}', '{}', jsonb_build_object('n', n::text) from generate_series(1, 10000) as n"
        )
    with psycopg.connect(database_url, autocommit=True) as database:
        database.execute("vacuum analyze turns_undated")
    async with pool.connection() as connection:
        statement = SQL("explain ") + stored_turns._page_statement("asc", tagged=True)
        values = {"project": "default", "metadata": Jsonb({"n": "77"}), "after": None, "limit": 20}
        cursor = await connection.execute(statement, values)
        plan = [row["QUERY PLAN"] for row in await cursor.fetchall()]
    assert any("Index Cond" in line and "metadata @>" in line for line in plan), plan
    found = await stored_turns.page(pool, "default", after=None, limit=20, order="asc", metadata={"n": "77"})
    assert [turn.id for turn in found] == ["chatcmpl-77"]
    first = await stored_turns.page(pool, "default", after=None, limit=2, order="asc", metadata={})
    assert len(first) == 2
