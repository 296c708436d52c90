"""The service of the bench `everyday`: a real database and the trainer's own loop, and serving in process."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from feedback.open_log import open_log
from schemas.database import Pool, open_async_pool
from schemas.settings import Settings
from serving import rollout
from serving.router import Route, assign, fetch_routes
from tests.bench.everyday_outcome import Rounds
from tests.bench.voters import Voters
from tests.training import send
from trainer import loop
from trainer.data.ingest import ingest
from trainer.learner import Learner

ARRIVAL_SHARE = 0.75
"""Share of the time in which the votes arrive."""

WAITING_VOTES = 10
"""Votes that arrive together while no round is due."""


class Service:
    """A project with its database and its trainer, in one process; what serving does is done at once."""

    def __init__(self, settings: Settings, pool: Pool) -> None:
        self.settings = settings
        self.pool = pool
        self.learner = Learner(settings)
        self.trainer = loop.Trainer(settings, pool, open_log(settings, pool), self.learner)
        self.trainer.lead()

    def route(self) -> Route:
        """Returns the policies that answer now."""

        async def fetch() -> Route:
            async with self._connection() as connection:
                [found] = await fetch_routes(connection)
                return found

        return asyncio.run(fetch())

    def promote_published(self) -> None:
        """Takes published policies live, as serving does once the engines have loaded them."""

        async def promote() -> None:
            async with self._connection() as connection:
                rows = await connection.execute(
                    "select id from policies where state = 'published' order by created_at"
                )
                for row in await rows.fetchall():
                    await rollout.promote(connection, self.settings.project, row["id"])

        asyncio.run(promote())

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection[DictRow]]:
        async with (
            open_async_pool(self.settings.database_url or "", size=2) as pool,
            pool.connection() as connection,
        ):
            yield connection

    def load(self, policy: str) -> None:
        """Puts a policy's adapter into the backbone."""
        with self.pool.connection() as connection:
            row = connection.execute("select directory from policies where id = %s", [policy]).fetchone()
        assert row is not None
        self.learner.backbone.load_adapter(Path(row["directory"]))

    def receive(self, voters: Voters, count: int, route: Route) -> None:
        """Answers `count` visits by `route`, and records them with their votes."""
        if count <= 0:
            return
        share = self.settings.serving.base_share
        visits = voters.visit(count, lambda turn: assign(route, turn, share), self.load)
        turns = [visit.turn for visit in visits]
        send(self.settings.database_url or "", turns, [(visit.turn, visit.vote) for visit in visits])
        ingest(self.pool, self.trainer.log)


def learn(service: Service, voters: Voters, votes: int, minutes: float) -> Rounds:
    """Lets votes arrive and rounds run until the time is up or all votes are learned."""
    limit, per_vote = 60 * minutes, 60 * minutes * ARRIVAL_SHARE / votes
    clock = round_began = 0.0
    outcomes: list[str] = []
    seconds: list[float] = []
    while clock + max(seconds, default=0.0) <= limit:
        service.trainer.last_round = time.monotonic() - (clock - round_began)
        if service.trainer.due():
            route, began, round_began = service.route(), time.monotonic(), clock
            outcomes.append(service.trainer.round())
            seconds.append(time.monotonic() - began)
            clock += seconds[-1]
            print(f"  {clock / 60:5.1f} min, {voters.votes} votes: {describe(service)}", file=sys.stderr)
            service.receive(voters, min(votes, int(clock / per_vote)) - voters.votes, route)
            service.promote_published()
        elif voters.votes < votes:
            arriving = min(WAITING_VOTES, votes - voters.votes)
            clock = max(clock, (voters.votes + arriving) * per_vote)
            service.receive(voters, arriving, service.route())
        else:
            clock += service.settings.trainer.round_seconds
    return Rounds(outcomes, seconds, min(clock, limit) / 60, voters.votes)


def describe(service: Service) -> str:
    """Returns a line about the last round."""
    with service.pool.connection() as connection:
        row = connection.execute("select * from rounds order by id desc limit 1").fetchone()
    assert row is not None
    steps = (row["record"].get("optimization") or {}).get("steps") or [{}]
    figures = (row["record"].get("gate") or {}).get("figures") or {}
    first, last = steps[0], steps[-1]
    return (
        f"{row['outcome']} ({row['reason']}), {len(steps)} steps, reward {first.get('reward')} → "
        f"{last.get('reward')}, length {first.get('mean_length')} → {last.get('mean_length')}, gate {figures}"
    )
