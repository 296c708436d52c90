"""The swap: a published policy is verified, loaded on every engine, probed, and only then answers.

Each process follows the registry (by NOTIFY, and once a second whatever happens) and answers by a route
only when its engines have proved the route's policies, so a request never meets a policy that is not
there. What must stay resident: the base, live, previous, a canary, and whatever a request is using.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psycopg
import structlog
from psycopg_pool import PoolTimeout

from schemas.database import AsyncPool, conninfo
from schemas.errors import Conflict, EngineError, PolicyRejected
from schemas.policies import BASE, Manifest, base_digest, verify
from schemas.settings import Settings
from serving import rollout
from serving.fleet import Fleet
from serving.metrics import Metrics
from serving.router import Route, Router, fetch_routes

log = structlog.get_logger()

_POLL = 1.0  # seconds


class Swap:
    """Keeps router and fleet in step with the registry. `gone_live` is told of each new live policy."""

    def __init__(
        self,
        settings: Settings,
        pool: AsyncPool,
        fleet: Fleet,
        router: Router,
        metrics: Metrics,
        gone_live: Callable[[Route], None],
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._url = settings.database_url or ""
        self._fleet = fleet
        self._router = router
        self._metrics = metrics
        self._gone_live = gone_live
        self._wake = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._base: str | None = None

    async def run(self) -> None:
        """Until cancelled. Engines are looked at whatever the swap waits for."""
        async with asyncio.TaskGroup() as tasks:
            for work in (self._watch, self._listen, self._poll):
                tasks.create_task(self._keep_on(work))

    async def step(self) -> None:
        """Look at the registry once, and do whatever is due."""
        async with self._one_at_a_time:
            if not self._fleet.healthy:
                return
            routes = await self._routes()
            for route in routes:
                await self._follow(route)
                await self._promote_due(route.project)
            needed = {policy for route in routes for policy in route.policies()}
            self._metrics.unserved.set(len(needed - self._fleet.served()))
            await self._fleet.keep(self._wanted())

    async def promote(self, project: str, policy: str) -> None:
        """Have `policy` proved everywhere, then make it live. Raises as `rollout.promote`, and Conflict when
        no engine slot is free for it."""
        async with self._one_at_a_time:
            await self._admit(project, policy)
            async with self._pool.connection() as connection:
                route = await rollout.promote(connection, project, policy)
            self.adopt(route)

    async def start_canary(self, project: str, policy: str, share: float) -> str:
        """Have `policy` proved everywhere, then give it a share. Raises as `rollout.start_canary`, too."""
        async with self._one_at_a_time:
            await self._admit(project, policy)
            async with self._pool.connection() as connection:
                rollout_id = await rollout.start_canary(connection, project, policy, share)
            for route in await self._routes():
                self.adopt(route)
        return rollout_id

    def adopt(self, route: Route) -> bool:
        """Answer by a route that is in the registry, if the engines can; else the next step sees to it."""
        able = self._fleet.serves(route.live) and (route.canary is None or self._fleet.serves(route.canary))
        if able:
            self._take(route)
        return able

    async def _keep_on(self, work: Callable[[], Awaitable[None]]) -> None:
        """What fails because something is down begins again a moment later."""
        while True:
            try:
                await work()
            except (psycopg.OperationalError, PoolTimeout, EngineError) as error:
                log.warning("swap_waits", error=type(error).__name__, detail=str(error).splitlines()[:1])
            except Exception:  # it must outlive its own bugs, or no policy would change again
                log.exception("swap_failed")
            await asyncio.sleep(_POLL)

    async def _watch(self) -> None:
        while True:
            before = self._fleet.healthy
            await self._fleet.look()
            self._metrics.engines.set(len(self._fleet.in_rotation))
            if self._fleet.healthy != before:
                self._wake.set()
            await asyncio.sleep(_POLL)

    async def _poll(self) -> None:
        while True:
            self._wake.clear()
            await self.step()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _POLL)

    async def _listen(self) -> None:
        connection = await psycopg.AsyncConnection.connect(conninfo(self._url), autocommit=True)
        async with connection:
            await connection.execute("listen hearken_routes")
            await connection.execute("listen hearken_policies")
            async for notice in connection.notifies():
                if notice.channel == "hearken_routes":
                    for route in await self._routes():
                        self.adopt(route)
                self._wake.set()

    async def _routes(self) -> list[Route]:
        async with self._pool.connection() as connection:
            return await fetch_routes(connection)

    async def _follow(self, route: Route) -> None:
        """Have the route's policies proved, replace those that are damaged, then answer by it. The base goes
        first: engines that do not even serve that say nothing about the others."""
        for policy in sorted(route.policies(), key=lambda policy: policy != BASE):
            try:
                await self._admit(route.project, policy, route.policies())
            except PolicyRejected as error:
                if self._is_damaged(error):
                    await self._reject(route.project, error)
                    self._wake.set()
                    return
                log.critical("policy_not_served", policy=policy, reason=error.reason, error=error.message)
            except (Conflict, EngineError) as error:
                log.warning("policy_waits", policy=policy, why=error.message)
        self.adopt(route)

    def _is_damaged(self, error: PolicyRejected) -> bool:
        """Whether a policy that was good once must give way for ever.

        One whose files an engine cannot reach, or that belongs to another base than was started, may serve
        again tomorrow; and behind the base there is nothing.
        """
        if error.policy == BASE or error.reason in ("load", "wrong_base"):
            return False
        return error.reason != "probe" or self._fleet.serves(BASE)

    async def _promote_due(self, project: str) -> None:
        """What an operator asked for, and with direct promotion what was published, each in the order of its
        publication: votes went into all of them, and each is seen to go live."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "select id, asked_at is not null as asked from policies where project = %s"
                " and (asked_at is not null or state = 'published' and %s) order by created_at, id",
                [project, self._settings.serving.promotion == "direct"],
            )
            due = [(row["id"], row["asked"]) for row in await cursor.fetchall()]
        for policy, asked in due:
            try:
                await self._admit(project, policy)
                async with self._pool.connection() as connection:
                    self.adopt(await rollout.promote(connection, project, policy))
            except PolicyRejected as error:
                if asked and not self._is_damaged(error):
                    async with self._pool.connection() as connection:
                        await rollout.withdraw(connection, project, policy, error.reason)
                    log.error("policy_not_served", policy=policy, reason=error.reason, error=error.message)
                else:
                    await self._reject(project, error)
            except Conflict as error:
                log.info("swap_postponed", policy=policy, why=error.message)
                return

    async def _admit(self, project: str, policy: str, wanted: Iterable[str] = ()) -> None:
        """Have `policy` proved, making room for it by unloading what nobody has and nobody wants."""
        most = self._settings.engine.max_adapters
        if not self._fleet.room(policy, most):
            await self._fleet.keep(self._wanted() | {policy, *wanted}, at_once=True)
        if not self._fleet.room(policy, most):
            raise Conflict(f"No engine slot is free for {policy}: {most} adapters are in use.")
        await self._prove(project, policy)

    async def _prove(self, project: str, policy: str) -> None:
        healthy = self._fleet.healthy
        if healthy and all(policy in replica.proved for replica in healthy):
            return
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "select directory, digest from policies where project = %s and id = %s", [project, policy]
            )
            row = await cursor.fetchone()
        if row is None:
            raise PolicyRejected(f"{policy} is not in the registry", policy=policy, reason="missing")
        directory, manifest = await asyncio.to_thread(self._verify, policy, row["directory"], row["digest"])
        await self._fleet.prove(policy, directory, manifest.probe, self._settings.engine.probe_tolerance)

    def _verify(self, policy: str, directory: str, digest: str) -> tuple[Path, Manifest]:
        if self._base is None:
            self._base = base_digest(Path(self._settings.model))
        return Path(directory).absolute(), verify(policy, Path(directory), digest, self._base)

    async def _reject(self, project: str, error: PolicyRejected) -> None:
        log.error("policy_rejected", policy=error.policy, reason=error.reason, error=error.message)
        self._metrics.rejected.labels(error.reason).inc()
        async with self._pool.connection() as connection:
            route = await rollout.reject(connection, project, error.policy, error.reason)
        self.adopt(route)

    def _take(self, route: Route) -> None:
        before = self._router.find(route.project)
        if not self._router.adopt(route):
            return
        if before is None or before.live != route.live:
            log.info("policy_live", project=route.project, policy=route.live, previous=route.previous)
            self._metrics.swaps.labels(route.project)
            self._metrics.live.labels(route.project, route.live).set(1)
            if before is not None:
                self._metrics.live.remove(route.project, before.live)
                self._metrics.swaps.labels(route.project).inc()
                self._gone_live(route)

    def _wanted(self) -> set[str]:
        return self._router.policies() | {BASE}
