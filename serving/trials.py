"""The trials as one process sees them: it decides those that are due and that no other process decides, and
ends at once those whose candidate fails."""

import asyncio
import time
from collections.abc import Callable

import psycopg
import structlog
from psycopg.errors import QueryCanceled
from psycopg_pool import PoolTimeout

from schemas.database import AsyncPool
from schemas.errors import Conflict, PolicyRejected
from schemas.settings import ServingSettings
from serving import rollout, rollout_controller
from serving.fleet import Fleet
from serving.hard_failure import Failures
from serving.metrics import Metrics
from serving.router import Route, Router

log = structlog.get_logger()

ACTOR = "hard failure"
"""Who ends a trial whose candidate fails, in the record."""

UNSERVED_SECONDS = 60.0
"""Seconds for which no engine serves a candidate, after which its trial ends; until then the live policy
answers its people."""


class Trials:
    """`use_route` makes this process answer by a route that has changed."""

    def __init__(
        self,
        serving: ServingSettings,
        pool: AsyncPool,
        fleet: Fleet,
        router: Router,
        metrics: Metrics,
        use_route: Callable[[Route], object],
    ) -> None:
        self._serving = serving
        self._pool = pool
        self._fleet = fleet
        self._router = router
        self._metrics = metrics
        self._use_route = use_route
        self._unserved_since: dict[tuple[str, str], float] = {}
        self._ending: dict[tuple[str, str], asyncio.Task[None]] = {}
        self.failures = Failures(self._end_failed)

    async def decide(self) -> None:
        """Stores what failed, and decides the rollouts that are due."""
        async with self._pool.connection() as connection:
            if failed := self.failures.take():
                await connection.cursor().executemany(
                    "insert into rollout_failures (project, policy, rater, origin) values (%s, %s, %s, %s)",
                    failed,
                )
            due = await rollout_controller.claim(connection)
        for found in due:
            try:
                async with self._pool.connection() as connection:
                    decided = await rollout_controller.evaluate(connection, found, self._serving)
            except (Conflict, PolicyRejected, QueryCanceled) as error:  # the others are decided
                log.info("decision_postponed", policy=found.policy, why=str(error))
                continue
            if decided is not None:
                self._metrics.rollouts_decided.labels(decided.action).inc()
                log.info(
                    "rollout_decided",
                    project=found.project,
                    policy=found.policy,
                    action=decided.action,
                    reason=decided.reason,
                )
                self._use_route(decided.route)

    def end_unserved(self) -> None:
        """Ends the trials of candidates that no engine has served for UNSERVED_SECONDS, where the live policy
        is served."""
        now = time.monotonic()
        unserved = {
            (route.project, route.canary)
            for route in self._router.routes()
            if route.canary is not None
            and not self._fleet.serves(route.adapter(route.canary))
            and self._fleet.serves(route.adapter(route.live))
        }
        self._unserved_since = {each: self._unserved_since.get(each, now) for each in unserved}
        for (project, policy), since in self._unserved_since.items():
            if now - since >= UNSERVED_SECONDS:
                self._end_failed(project, policy, "a hard failure: no engine serves it")

    def _end_failed(self, project: str, policy: str, reason: str) -> None:
        if (project, policy) not in self._ending:
            task = asyncio.create_task(self._end(project, policy, reason))
            self._ending[project, policy] = task
            task.add_done_callback(lambda _: self._ending.pop((project, policy)))

    async def _end(self, project: str, policy: str, reason: str) -> None:
        try:
            async with self._pool.connection() as connection:
                route = await rollout.end_trial(connection, project, policy, reason, actor=ACTOR)
        except (psycopg.OperationalError, PoolTimeout) as error:
            log.error("trial_not_ended", policy=policy, reason=reason, error=type(error).__name__)
            return
        log.error("trial_ended", project=project, policy=policy, reason=reason)
        self._metrics.rollouts_decided.labels("end").inc()
        self._use_route(route)
