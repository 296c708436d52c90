"""The service of the bench `everyday`: a real database and the trainer's own loop, and serving in process."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from feedback.open_log import open_log
from schemas.database import Pool, open_async_pool
from schemas.settings import Settings
from serving import rollout, rollout_controller, rollout_evidence
from serving.router import Route, assign, fetch_route, fetch_routes
from tests.bench.judgment import PolicyJudgment, judge_policy
from tests.bench.served_replies import ServedAt
from tests.bench.tastes import Taste
from tests.bench.voters import Voters
from tests.training import send
from trainer import loop
from trainer.data.ingest import ingest
from trainer.learner import Learner
from trainer.log_reader import LogReader


class Service:
    """A project with its database and its trainer, in one process; what serving does is done at once."""

    def __init__(self, settings: Settings, pool: Pool) -> None:
        rollout_evidence.GRACE = timedelta()  # there is one process, and its clock runs ahead
        self.settings = settings
        self.pool = pool
        self.learner = Learner(settings)
        self.trainer = loop.Trainer(settings, pool, LogReader(pool, open_log(settings, pool)), self.learner)
        self.trainer.lead()

    def route(self) -> Route:
        """Returns the policies that answer now."""

        async def fetch() -> Route:
            async with self._connection() as connection:
                [found] = await fetch_routes(connection)
                return found

        return asyncio.run(fetch())

    def follow(self) -> None:
        """Changes what answers, as serving does once the engines have loaded a policy: those that passed the
        gate go live, the newest that it could not judge is a canary, and people's votes end it."""

        async def follow() -> None:
            project, serving = self.settings.project, self.settings.serving
            async with self._connection() as connection:
                passed = await connection.execute(
                    "select id from policies where state = 'published'"
                    " and gate ->> 'outcome' is distinct from 'unknown' order by created_at"
                )
                for row in await passed.fetchall():
                    await rollout.promote(connection, project, row["id"])
                await connection.execute(
                    "update rollouts set evaluate_after = now() where evaluate_after is not null"
                )  # the clock of the bench is not the database's
                for found in await rollout_controller.claim(connection):
                    ended = await rollout_controller.evaluate(connection, found, serving)
                    if ended is not None:
                        print(f"  canary: {ended.action}, {ended.reason}", file=sys.stderr)
                candidate = await rollout_controller.next_candidate(connection, project, every=False)
                route = await fetch_route(connection, project)
                if candidate is not None and route.canary is None:
                    await rollout_controller.start(connection, project, candidate, serving)

        asyncio.run(follow())

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

    def judge(self, policy: str, served_at: ServedAt, prompts: Sequence[str], taste: Taste) -> PolicyJudgment:
        """Judges a policy; its adapter stays in the backbone."""
        self.load(policy)
        return judge_policy(self.learner.backbone, served_at, prompts, taste)

    def receive(self, voters: Voters, count: int, route: Route) -> None:
        """Answers `count` visits by `route`, records them with their votes, and changes the route if these
        or a new policy ask for it."""
        if count > 0:
            share = self.settings.serving.base_share
            visits = voters.visit(count, lambda person: assign(route, person, share), self.load)
            turns = [visit.turn for visit in visits]
            send(self.settings.database_url or "", turns, [(visit.turn, visit.vote) for visit in visits])
            ingest(self.pool, self.trainer.reader.votes)
        self.follow()

    def describe_round(self) -> tuple[str, str]:
        """Returns how the last round ended, `canary` if the gate could not judge its candidate, and a line
        about it."""
        with self.pool.connection() as connection:
            row = connection.execute("select * from rounds order by id desc limit 1").fetchone()
        assert row is not None
        gate = row["record"].get("gate") or {}
        unknown = row["outcome"] == "published" and gate.get("outcome") == "unknown"
        steps = (row["record"].get("optimization") or {}).get("steps") or [{}]
        first, last = steps[0], steps[-1]
        return (
            "canary" if unknown else row["outcome"],
            f"{row['reason'] or 'no reason'}; {len(steps)} steps, reward {first.get('reward')} → "
            f"{last.get('reward')}, length {first.get('mean_length')} → {last.get('mean_length')}, "
            f"gate {gate.get('figures')}",
        )
