"""The feed tells open consoles what has changed, by server-sent events, so that they need not ask.

However many consoles are open, one query a second reads the marks of their projects; a console whose marks
are new gets one event that names them, and asks for what it shows of that.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, LiteralString

import psycopg
from psycopg_pool import PoolTimeout

from schemas.database import AsyncPool
from serving.limits import RateLimiter

MOST_CONSOLES = 100
"""Consoles that one process tells at once."""

INTERVAL = 1.0
"""Seconds between two looks at the database."""

_MARKS: LiteralString = """
select p.id as project, jsonb_build_object(
    'votes', (select id from feedback where project = p.id order by created_at desc, id desc limit 1),
    'rounds', (select jsonb_build_array(id, outcome, progress) from rounds where project = p.id
        order by id desc limit 1),
    'policies', jsonb_build_array(r.version, (select id from policies where project = p.id
        order by created_at desc limit 1)),
    'rollouts', (select jsonb_build_array(id, evidence_at) from rollouts where project = p.id
        order by started_at desc limit 1),
    'training', p.paused
) as marks
from projects p left join routes r on r.project = p.id where p.id = any(%s)
"""


class _Console:
    """An open console: its project, and what has changed since it was last told."""

    def __init__(self, project: str) -> None:
        self.project = project
        self.seen: dict[str, Any] | None = None
        self.changed: set[str] = set()
        self.woken = asyncio.Event()

    def look(self, marks: dict[str, dict[str, Any]]) -> None:
        """Notes which of its project's marks are new. The first look is where it begins."""
        own = marks.get(self.project, {})
        if self.seen is not None:
            self.changed |= {name for name, mark in own.items() if self.seen.get(name) != mark}
        self.seen = own
        if self.changed:
            self.woken.set()


class Feed:
    """All open consoles of this process."""

    def __init__(self, pool: AsyncPool, limiter: RateLimiter) -> None:
        self._pool = pool
        self._limiter = limiter
        self._consoles: set[_Console] = set()
        self._closed = False

    async def events(self, project: str) -> AsyncGenerator[bytes]:
        """Yields an event once it looks, then one after each change: what was read after the first event
        misses none. Raises RateLimited while MOST_CONSOLES are open."""
        console = _Console(project)
        with self._limiter.concurrently("consoles", MOST_CONSOLES):
            console.look(await self._marks([project]))
            self._consoles.add(console)
            try:
                yield _event({"changed": []})
                while not self._closed:
                    await console.woken.wait()
                    console.woken.clear()
                    changed, console.changed = sorted(console.changed), set()
                    if changed:
                        yield _event({"changed": changed})
            finally:
                self._consoles.discard(console)

    async def run(self) -> None:
        """Looks at the database until cancelled, while any console is open."""
        while True:
            await asyncio.sleep(INTERVAL)
            if self._consoles:
                with suppress(psycopg.OperationalError, PoolTimeout):
                    await self._look()

    def close(self) -> None:
        """Ends all events, so that the process need not wait for its consoles."""
        self._closed = True
        for console in self._consoles:
            console.woken.set()

    async def _look(self) -> None:
        marks = await self._marks(list({console.project for console in self._consoles}))
        for console in self._consoles:
            if console.project in marks:
                console.look(marks)

    async def _marks(self, projects: list[str]) -> dict[str, dict[str, Any]]:
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(_MARKS, [projects])).fetchall()
        return {row["project"]: row["marks"] for row in rows}


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()
