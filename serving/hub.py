"""The hub is the publish-subscribe side of `WS /v1/live`: it tells open websockets that another policy is
live, and which of their votes it learned from."""

import asyncio
from collections import Counter
from collections.abc import Collection
from contextlib import aclosing, suppress
from datetime import datetime
from typing import Any, Protocol

import psycopg
from psycopg_pool import PoolTimeout

from feedback.store import Store
from schemas.database import AsyncPool
from schemas.times import rfc3339
from serving.keys import Caller
from serving.router import Route

MAX_NEWS = 256
"""Votes of one policy that are announced to one websocket."""

_STEPS = 32  # notifications after which other work gets its turn
_DRAIN_POLL = 0.1  # seconds between checks whether all chats have ended
_RETRY_DELAY = 1.0  # seconds before the database is asked again


class Subscriber(Protocol):
    """An authenticated websocket. `votes` are the feedback ids that came through it, `raters` the pseudonyms
    of the people whom it chatted for; `busy` holds while a chat runs or its end is not sent yet."""

    caller: Caller

    @property
    def busy(self) -> bool: ...

    @property
    def votes(self) -> Collection[str]: ...

    @property
    def raters(self) -> Collection[str]: ...

    def notify(self, frame: dict[str, Any]) -> None:
        """Queues a frame, or drops it when the client reads too slowly."""

    def recheck(self) -> None:
        """Looks at once whether its key is still valid."""


class _Turns:
    """Shares the event loop: after some steps of a long loop, all else that is ready runs once."""

    def __init__(self) -> None:
        self._steps = 0

    async def next(self) -> None:
        self._steps += 1
        if self._steps % _STEPS == 0:
            await asyncio.sleep(0)


class Hub:
    """All websockets of this process, by subscription. Each vote is announced once to a websocket."""

    def __init__(self, pool: AsyncPool, store: Store) -> None:
        self._pool = pool
        self._store = store
        self._subscribers: set[Subscriber] = set()
        self._announced: dict[str, set[str]] = {}  # project -> policies whose votes were announced
        self._done: Counter[tuple[str, str]] = Counter()  # votes of a policy before the database failed
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock = asyncio.Lock()

    async def subscribe(self, subscriber: Subscriber) -> None:
        """Announces to `subscriber` from now on. Policies that were live before a project's first subscriber
        are not announced."""
        project = subscriber.caller.project
        async with self._lock:
            if project not in self._announced:
                self._announced[project] = set(await self._unannounced(project))
        self._subscribers.add(subscriber)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        self._subscribers.discard(subscriber)

    def recheck(self, key_id: str | None) -> None:
        """Lets the websockets of a key that has changed look whether it is still valid; without an id,
        all."""
        for subscriber in self._subscribers:
            if key_id in (None, subscriber.caller.key_id):
                subscriber.recheck()

    async def drain(self, seconds: float) -> None:
        """Waits until no chat is running on any websocket, for `seconds` at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while any(each.busy for each in self._subscribers):  # noqa: ASYNC110 - once in a process's life
                    await asyncio.sleep(_DRAIN_POLL)

    def announce(self, route: Route) -> None:
        """Tells all subscribers of the project which policy is live, and those whose votes it learned
        from."""
        task = asyncio.create_task(self._announce(route))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _announce(self, route: Route) -> None:
        turns = _Turns()
        for subscriber in self._of(route.project):
            subscriber.notify({"type": "policy", "policy": route.live, "previous": route.previous})
            await turns.next()
        while True:
            try:
                await self._announce_learned(route.project)
                return
            except (psycopg.OperationalError, PoolTimeout):
                await asyncio.sleep(_RETRY_DELAY)

    async def _announce_learned(self, project: str) -> None:
        """Announces the votes of every policy that went live since the last time: this process may have seen
        only the newest of them, or see one again after a rollback."""
        async with self._lock:
            if project not in self._announced:
                return
            for policy, live_at in (await self._unannounced(project)).items():
                await self._announce_policy(project, policy, live_at)
                self._announced[project].add(policy)

    async def _announce_policy(self, project: str, policy: str, live_at: datetime) -> None:
        """Announces the votes of one policy to those whom they concern, found by an index."""
        turns = _Turns()
        concerned: dict[str, list[Subscriber]] = {}  # by feedback id, and by rater
        for subscriber in self._of(project):
            for name in (*subscriber.votes, *subscriber.raters):
                concerned.setdefault(name, []).append(subscriber)
            await turns.next()
        if not concerned:
            return
        sent: Counter[Subscriber] = Counter()
        read, announcing = 0, (project, policy)
        async with aclosing(self._store.learned_by(project, policy)) as learned:
            async for vote in learned:
                read += 1
                if read <= self._done[announcing]:
                    continue
                self._done[announcing] = read
                news = {
                    "type": "learned",
                    "feedback_id": vote.feedback_id,
                    "completion_id": vote.turn_id,
                    "policy": policy,
                    "live_at": rfc3339(live_at),
                }
                by_vote, by_rater = concerned.get(vote.feedback_id, []), concerned.get(vote.rater, [])
                for subscriber in dict.fromkeys((*by_vote, *by_rater)):
                    subscriber.notify(news)
                    sent[subscriber] += 1
                    await turns.next()
                if by_rater:
                    concerned[vote.rater] = [each for each in by_rater if sent[each] < MAX_NEWS]
                await turns.next()
        del self._done[announcing]

    def _of(self, project: str) -> list[Subscriber]:
        return [each for each in self._subscribers if each.caller.project == project]

    async def _unannounced(self, project: str) -> dict[str, datetime]:
        """Returns when each policy went live that was not announced yet, the oldest first. A timestamp of the
        last announcement would not do: `live_at` is when a transaction began, and one may wait for
        another."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "select id, coalesce(live_at, inherited_at) as live_at from policies"
                " where project = %s and coalesce(live_at, inherited_at) is not null"
                " and id <> all(%s) order by live_at, id",
                [project, list(self._announced.get(project, ()))],
            )
            return {row["id"]: row["live_at"] for row in await cursor.fetchall()}
