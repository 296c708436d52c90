"""How long the rows of a person take to go: `python -m tests.bench.erasure`.

An embedded Postgres with ten weeks of 50,000 turns and 100,000 votes each, of people with ten turns, one with
1,000 and one with 50,000. Promised: nothing of the first two is left after 60 seconds, and a vote takes at
most one and a half times as long (99th percentile) while the rows of the third go. About five minutes, most
of them to fill the tables.
"""

import asyncio
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import psycopg

from deploy.local.postgres import EmbeddedPostgres
from feedback import erasing, erasures
from feedback.store import Store
from schemas.database import AsyncPool, migrate, open_async_pool
from schemas.feedback import parse_vote
from schemas.turns import new_id
from tests.bench.retention import fill
from tests.voting import a_turn, add_keys

PEOPLE = {"u_7": 0, "u_middle": 1_000, "u_heavy": 50_000}
"""Raters, and how many turns they are given."""

VOTES = 400

_GIVE = """
with given as (
    select id from turns where rater <> all(%(raters)s) order by id offset %(after)s limit %(count)s
), turned as (
    update turns set rater = %(rater)s from given where turns.id = given.id
)
update feedback set rater = %(rater)s, facets = null from given where turn_id = given.id
"""
_LEARN = """
insert into training_examples
    (event_id, project, feedback_id, turn_id, choice, type, value, rater, conversation_id, created_at)
select event_id, project, id, turn_id, choice, type, value, rater, '', created_at from feedback
"""


def prepare(url: str) -> None:
    fill(url)
    with psycopg.connect(url, autocommit=True) as connection:
        for rater, count in PEOPLE.items():
            values = {"rater": rater, "raters": list(PEOPLE), "count": count, "after": 1_000}
            connection.execute(_GIVE, values)
        connection.execute(_LEARN)
        connection.execute("vacuum analyze")


async def p99(pool: AsyncPool) -> float:
    """Returns the 99th percentile of the time of a vote, seconds."""
    store, took = Store(pool), []
    for _ in range(VOTES):
        turn = replace(a_turn(new_id()), key_id="default-admin")
        await store.record_turn(turn)
        votable = await store.votable_turn(turn.id)
        assert votable is not None
        vote = parse_vote({"completion_id": turn.id, "type": "thumb", "value": "up"})
        began = time.perf_counter()
        await store.submit(votable, vote, "u_voter")
        took.append(time.perf_counter() - began)
        await asyncio.sleep(0.01)
    return sorted(took)[int(0.99 * VOTES)]


async def erase(url: str, rater: str) -> float:
    """Erases a person; returns the seconds until all rows are gone."""
    began = time.perf_counter()
    async with open_async_pool(url, size=1) as pool, pool.connection() as connection:
        id = await erasures.ask(connection, "default", [rater], "bench")
        while True:
            await connection.commit()
            await erasing.advance(url, [id])
            if erasures.shown(await erasures.find(connection, "default", id))["state"] == "done":
                return time.perf_counter() - began
            await asyncio.sleep(0.05)


async def measure(url: str) -> dict[str, float]:
    found: dict[str, float] = {}
    async with open_async_pool(url, size=2) as pool:
        await p99(pool)  # a warm-up
        alone = await p99(pool)
        for rater in list(PEOPLE)[:2]:
            found[rater] = await erase(url, rater)
        heavy = asyncio.create_task(erase(url, "u_heavy"))
        found["vote, times as long"] = await p99(pool) / alone
        found["u_heavy"] = await heavy
    with psycopg.connect(url) as connection:
        left = connection.execute(
            "select count(*) from turns where rater = any(%s)", [list(PEOPLE)]
        ).fetchone()
    assert left == (0,)
    return found


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        postgres = EmbeddedPostgres(Path(folder).resolve() / "postgres")
        url = postgres.start()
        try:
            migrate(url)
            asyncio.run(_keys(url))
            prepare(url)
            found = asyncio.run(measure(url))
        finally:
            postgres.stop()
    print(json.dumps({name: round(value, 2) for name, value in found.items()}))
    return int(max(found["u_7"], found["u_middle"]) > 60 or found["vote, times as long"] > 1.5)


async def _keys(url: str) -> None:
    async with open_async_pool(url, size=1) as pool:
        await add_keys(pool)


if __name__ == "__main__":
    sys.exit(main())
