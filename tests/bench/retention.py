"""Whether anybody waits while a week is dropped: `python -m tests.bench.retention`.

A `hearken serve` and its Postgres on this machine, with ten weeks of 100,000 votes each, half of which were
superseded. Votes come at a steady rate, and turns are recorded as the chat records them, first alone and then
while the oldest week is dropped. Promised: the 99th percentile of both is at most 1.5 times as long, and none
fails. About two minutes.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import httpx
import psycopg

from feedback.retention import run_maintenance
from feedback.store import Store
from schemas.database import AsyncPool, open_async_pool
from schemas.turns import new_id
from tests.bench.load import at
from tests.bench.service import hearken_serve
from tests.installation import ADMIN_KEY
from tests.voting import a_turn

WEEKS, VOTES_A_WEEK = 10, 100_000
SECONDS = 20.0
PER_SECOND = 100
"""Votes, and turns, of the steady load."""

_WEEK = """
create table turns_{0} partition of turns for values from (turn_bound('{1}')) to (turn_bound('{2}'));
create table replies_{0} partition of replies for values from (turn_bound('{1}')) to (turn_bound('{2}'));
"""
_FILL = """
with numbers as (
    select n, turn_bound(%(begins)s::timestamptz + n * interval '6 seconds') || lpad(to_hex(n), 16, '0') as id
    from generate_series(1, %(count)s) as n
), new_turns as (
    insert into turns (id, project, conversation_id, rater, key_id, messages, prompt_token_ids, sampling)
    select id, 'default', 'conv-' || n, 'u_' || n, 'default-admin', '[]', '{1}', '{"temperature": 1}'
    from numbers
), new_replies as (
    insert into replies
        (turn_id, choice, project, policy, propensity, text, token_ids, logprobs, finish_reason)
    select id, 0, 'default', 'p0', 1, 'hi', '{1}', '{0}', 'stop' from numbers
)
insert into feedback (id, event_id, project, turn_id, choice, type, value, rater, slot, superseded_by)
select 'fb_' || id || vote, 'ev_' || id || vote, 'default', id, 0, 'thumb', '{"value": "up"}', 'u_' || n,
    'thumb', case when vote = 1 then 'fb_' || id || 2 end
from numbers, generate_series(1, 2) as vote
"""


def fill(url: str) -> None:
    """Ten past weeks; the oldest is the only one that ended longer ago than the retention."""
    with psycopg.connect(url) as connection:
        [today] = connection.execute("select date_trunc('week', now(), 'UTC')").fetchone() or [None]
        for week in range(WEEKS, 0, -1):
            begins = connection.execute("select %s - %s * interval '168 hours'", [today, week]).fetchone()
            ends = connection.execute("select %s - %s * interval '168 hours'", [today, week - 1]).fetchone()
            assert begins is not None
            assert ends is not None
            name = f"{begins[0]:%Y%m%d}"
            row = connection.execute("select to_regclass(%s)", [f"turns_{name}"]).fetchone()
            if row is not None and row[0] is None:
                connection.execute(_WEEK.format(name, begins[0], ends[0]).encode())
            connection.execute(_FILL, {"begins": begins[0], "count": VOTES_A_WEEK // 2})
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("vacuum analyze")


async def steady(work: Callable[[], Awaitable[bool]], until: Callable[[], bool]) -> list[tuple[bool, float]]:
    """Starts PER_SECOND pieces of work a second until told; returns how each went and its seconds."""
    tasks: list[asyncio.Task[tuple[bool, float]]] = []

    async def timed() -> tuple[bool, float]:
        began = time.perf_counter()
        return await work(), time.perf_counter() - began

    while not until():
        tasks.append(asyncio.create_task(timed()))
        await asyncio.sleep(1 / PER_SECOND)
    return await asyncio.gather(*tasks)


async def measure(url: str, port: int) -> dict[str, list[list[tuple[bool, float]]]]:
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    async with (
        open_async_pool(url, size=4) as pool,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as client,
    ):
        turns: list[str] = []

        async def record() -> bool:
            turn = replace(a_turn(new_id()), key_id="default-admin")
            await Store(pool).record_turn(turn)
            turns.append(turn.id)
            return True

        async def vote() -> bool:
            body = (
                {"completion_id": turns.pop(), "choice": 0, "type": "thumb", "value": "up"} if turns else {}
            )
            return not turns or (await client.post("/v1/feedback", json=body)).status_code == 201

        found: dict[str, list[list[tuple[bool, float]]]] = {"turns": [], "votes": []}
        for drops in (False, False, True):  # the first is a warm-up
            meanwhile = asyncio.create_task(drop(url) if drops else asyncio.sleep(SECONDS))
            waits = await asyncio.gather(steady(record, meanwhile.done), steady(vote, meanwhile.done))
            for name, each in zip(found, waits, strict=True):
                found[name].append(each)
        return found


async def drop(url: str) -> None:
    async with open_async_pool(url, size=1) as pool:
        before, began = await weeks(pool), time.monotonic()
        await run_maintenance(pool, 7 * (WEEKS - 1))
        seconds = time.monotonic() - began
        print(f"{before - await weeks(pool)} of {before} weeks was dropped in {seconds:.1f} s")


async def weeks(pool: AsyncPool) -> int:
    async with pool.connection() as connection:
        row = await (await connection.execute("select count(*) as weeks from turn_weeks()")).fetchone()
        return row["weeks"] if row else 0


def main() -> int:
    with hearken_serve() as (url, port):
        fill(url)
        found = asyncio.run(measure(url, port))
    figures = {
        name: [at(0.99, [seconds for _, seconds in each]) for each in runs] for name, runs in found.items()
    }
    failed = sum(not ok for runs in found.values() for each in runs for ok, _ in each)
    ratios = {name: dropping / alone for name, (_, alone, dropping) in figures.items()}
    for name, (_, alone, dropping) in figures.items():
        print(f"{name}: p99 {1e3 * alone:.1f} ms alone, {1e3 * dropping:.1f} ms while a week is dropped")
    print(json.dumps({"failed": failed, **{f"{name}_p99_ratio": each for name, each in ratios.items()}}))
    return 0 if failed == 0 and max(ratios.values()) <= 1.5 else 1


if __name__ == "__main__":
    sys.exit(main())
