"""Tests of what happens at the same time wait here until one connection waits for another's lock."""

import asyncio
from typing import Any, LiteralString

import psycopg

_WAITING: LiteralString = (
    "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
)


async def waiting(watcher: psycopg.Connection[Any], count: int) -> None:
    """Returns once so many connections to the database wait for a lock."""
    async with asyncio.timeout(10):
        while watcher.execute(_WAITING).fetchone() != (count,):  # noqa: ASYNC110 - a lock tells nobody
            await asyncio.sleep(0.02)
