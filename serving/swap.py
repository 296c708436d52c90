"""The swap is a reconciliation loop: it makes the engines and the router follow the registry.

A published policy is checked, loaded on every engine and verified before it answers. Each process follows the
registry (by NOTIFY, and every second) and uses a route only when its engines serve the policies that answer,
so no request meets a policy that is not loaded. The base, live, previous, a canary and all policies in use
stay loaded.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from psycopg_pool import PoolTimeout

from schemas.database import AsyncPool, conninfo, set_actor
from schemas.errors import Conflict, EngineError, PolicyRejected
from schemas.policies import BASE
from schemas.settings import Settings
from serving import lineage, rollout, rollout_controller
from serving.fleet import Fleet
from serving.integrity_check import INTERVAL as CHECK_INTERVAL
from serving.integrity_check import IntegrityCheck
from serving.metrics import Metrics
from serving.policy_files import PolicyFiles, forget_deleted
from serving.policy_loader import MAY_CHANGE, PolicyLoader
from serving.router import Route, Router, fetch_route, fetch_routes
from serving.trials import Trials
from serving.waiting_policies import WaitingPolicy, fetch_waiting

log = structlog.get_logger()

_INTERVAL = 1.0  # seconds between two reconciliations, health checks and retries
_CONCURRENT_ROUTES = 8  # whose policies are loaded at once
_NOT_ITS_OWN = (*MAY_CHANGE, "wrong_base")  # for these a policy of a route is never rejected

Change = Callable[[AsyncConnection[DictRow]], Awaitable[Route]]


class Swap:
    """Keeps the router and the fleet in step with the registry. `on_live` is called with each route whose
    live policy is new."""

    def __init__(
        self,
        settings: Settings,
        pool: AsyncPool,
        fleet: Fleet,
        router: Router,
        metrics: Metrics,
        on_live: Callable[[Route], None],
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._url = settings.database_url or ""
        self._fleet = fleet
        self._router = router
        self._metrics = metrics
        self._on_live = on_live
        self._wake = asyncio.Event()
        self._lock = asyncio.Lock()
        files = PolicyFiles(settings)
        self._loader = PolicyLoader(settings, pool, fleet, files)
        tolerance = settings.engine.probe_tolerance
        self.integrity_check = IntegrityCheck(pool, fleet, router, files, metrics, tolerance)
        self.trials = Trials(settings.serving, pool, fleet, router, metrics, self.use_route)
        self._on_key_change: Callable[[str | None], None] = lambda _: None

    def on_key_change(self, call: Callable[[str | None], None]) -> None:
        """Calls `call` with the id of each key that changes; None where changes may have been missed."""
        self._on_key_change = call

    async def run(self) -> None:
        """Runs until cancelled. The engines' health is checked even while a reconciliation waits."""
        async with asyncio.TaskGroup() as tasks:
            for work in (
                self._check_engines, self._listen, self._reconcile, self._decide, self._check_integrity,
            ):  # fmt: skip
                tasks.create_task(self._retry(work))

    async def reconcile(self) -> None:
        """Reads the registry once, and loads, promotes, rejects and unloads policies as it says."""
        async with self._lock:
            if not self._fleet.healthy:
                return
            routes = await self._fetch_routes()
            async with self._pool.connection() as connection:
                waiting = await fetch_waiting(connection, self._settings.serving.promotion)
            needed = {name for route in routes for name in route.adapters()}
            self._fleet.require(self._required() | needed)
            await self._follow_all(routes)
            for route in routes:
                project, found = route.project, waiting.get(route.project, [])
                if route.tainted:
                    await self._leave_tainted(route)
                await self._promote_due(project, [each for each in found if not each.tried])
                if any(each.tried for each in found):
                    await self._try_next(route)
            self._metrics.policies_unserved.set(len(needed - self._fleet.served()))
            # Another process may answer by a route that this one cannot use yet, on the same engines.
            self._fleet.require(self._required() | needed)
            await self._fleet.unload_unused()

    async def promote(
        self, project: str, policy: str, reason: str | None = None, actor: str | None = None
    ) -> None:
        """Loads and verifies `policy` on its engines, then makes it live. Raises as `rollout.promote`."""
        async with self._lock:
            await self._loader.load(project, policy)
            async with self._pool.connection() as connection:
                if actor is not None:
                    await set_actor(connection, actor)
                route = await rollout.promote(connection, project, policy, reason, actor=actor)
            self.use_route(route)

    async def start_canary(
        self,
        project: str,
        policy: str,
        share: float | None,
        mode: rollout.Trial | None = None,
        actor: str | None = None,
    ) -> str:
        """Loads and verifies `policy` on its engines, then starts its trial; returns the rollout's id.
        Without a share, people's votes decide it. Raises as `rollout.start_canary`."""
        serving = self._router.route(project).settings(self._settings.serving)
        usual, first = rollout_controller.first_share(serving)
        mode = mode or usual
        if mode != usual:
            first = 1.0 if mode == "duel" else serving.ramp[0]
        async with self._lock:
            await self._loader.load(project, policy)
            async with self._pool.connection() as connection:
                if actor is not None:
                    await set_actor(connection, actor)
                rollout_id = await rollout.start_canary(
                    connection,
                    project,
                    policy,
                    first if share is None else share,
                    automatic=share is None,
                    mode=mode,
                    actor=actor,
                )
            for route in await self._fetch_routes(project):
                self.use_route(route)
        return rollout_id

    def use_route(self, route: Route) -> bool:
        """Answers by a route of the registry if the engines serve it; otherwise reconciliation does later. A
        live policy that is new here, as after a rollback or a start, does not wait for a candidate that no
        engine serves: it answers its people meanwhile."""
        known = self._router.find(route.project)
        answering = [route.live]
        if route.canary is not None and known is not None and known.live == route.live:
            answering.append(route.canary)
        able = all(self._fleet.serves(route.adapter(policy)) for policy in answering)
        if able:
            self._update_router(route)
        return able

    async def _retry(self, work: Callable[[], Awaitable[None]]) -> None:
        """Repeats `work` for ever, _INTERVAL after each failure."""
        while True:
            try:
                await work()
            except (psycopg.OperationalError, PoolTimeout, EngineError) as error:
                log.warning("swap_retrying", error=type(error).__name__, detail=str(error).splitlines()[:1])
            except Exception:  # a bug here must not stop all changes of policies
                log.exception("swap_failed")
            await asyncio.sleep(_INTERVAL)

    async def _check_engines(self) -> None:
        while True:
            before = self._fleet.healthy
            await self._fleet.health_check()
            self._metrics.engines_in_rotation.set(len(self._fleet.in_rotation))
            self.trials.end_unserved()
            if self._fleet.healthy != before:
                self._wake.set()
            await asyncio.sleep(_INTERVAL)

    async def _reconcile(self) -> None:
        while True:
            self._wake.clear()
            await self.reconcile()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _INTERVAL)

    async def _decide(self) -> None:
        """Decides the rollouts that are due. What they rest on may take long to read, and no policy waits for
        it."""
        while True:
            if self._fleet.healthy:
                await self.trials.decide()
            await asyncio.sleep(_INTERVAL)

    async def _check_integrity(self) -> None:
        while True:
            await asyncio.sleep(CHECK_INTERVAL)
            if await self.integrity_check.run():
                self._wake.set()
            await forget_deleted(self._settings, self._pool)

    async def _listen(self) -> None:
        connection = await psycopg.AsyncConnection.connect(conninfo(self._url), autocommit=True)
        async with connection:
            await connection.execute("listen hearken_routes")
            await connection.execute("listen hearken_policies")
            await connection.execute("listen hearken_keys")
            self._on_key_change(None)
            async for notice in connection.notifies():
                if notice.channel == "hearken_keys":
                    self._on_key_change(notice.payload)
                    continue
                if notice.channel == "hearken_routes":
                    for route in await self._fetch_routes(notice.payload):
                        self.use_route(route)
                self._wake.set()

    async def _fetch_routes(self, project: str | None = None) -> list[Route]:
        async with self._pool.connection() as connection:
            return await fetch_routes(connection, project)

    async def _follow_all(self, routes: list[Route]) -> None:
        """Follows the routes, several at once. The first alone: it loads the base, which all share."""
        limit = asyncio.Semaphore(_CONCURRENT_ROUTES)

        async def follow(route: Route) -> None:
            async with limit:
                await self._follow(route)

        for some in (routes[:1], routes[1:]):
            async with asyncio.TaskGroup() as tasks:
                for route in some:
                    tasks.create_task(follow(route))

    async def _follow(self, route: Route) -> None:
        """Loads and verifies the route's policies, rejects those that are damaged for good, then answers by
        the route. The base is first: an engine that does not serve the base proves nothing about the
        others."""
        for policy in sorted(route.policies(), key=lambda policy: policy != BASE):
            if self._fleet.serves_everywhere(route.adapter(policy)):
                continue
            try:
                await self._loader.load(route.project, policy)
            except PolicyRejected as error:
                its_own = error.reason not in _NOT_ITS_OWN
                if its_own and await self._loader.fails_for_good(route.project, error):
                    await self._reject(route.project, error)
                    self._wake.set()
                    return
                log.critical("policy_not_served", policy=policy, reason=error.reason, error=error.message)
            except (Conflict, EngineError) as error:
                log.warning("load_postponed", policy=policy, why=error.message)
        self.use_route(route)

    async def _promote_due(self, project: str, due: list[WaitingPolicy]) -> None:
        """Promotes the policies that an operator requested and those that passed the gate, in the order of
        their publication: each has learned from votes, so each is announced as live. The trainer's request
        for an erasure is tried, as what passed the gate, until it is answered or the policy is rejected."""
        for each in due:
            actor = None if each.asked else "serving.promotion"
            change = partial(
                rollout.promote,
                project=project,
                policy=each.policy,
                actor=actor,
                automatic=not each.asked,
            )
            requested = each.asked and not each.replaces
            if not await self._take_up(project, each.policy, change, requested=requested):
                return

    async def _try_next(self, read: Route) -> None:
        """Starts the trial of the project's newest candidate, unless another one is running."""
        project, serving = read.project, read.settings(self._settings.serving)
        async with self._pool.connection() as connection:
            candidate = await rollout_controller.next_candidate(
                connection, project, every=rollout_controller.tries_all(serving)
            )
            route = await fetch_route(connection, project)
        if candidate is not None and route.canary is None:
            change = partial(rollout_controller.start, project=project, policy=candidate, serving=serving)
            await self._take_up(project, candidate, change)

    async def _leave_tainted(self, route: Route) -> None:
        """Takes policies that learned from somebody who was erased out of a route, once what takes the place
        of the live one is loaded and verified."""
        serving = route.settings(self._settings.serving)
        replace_live = route.live in route.tainted and serving.tainted_policy == "replace"
        if route.tainted == [route.live] and not replace_live:
            return
        change = partial(rollout.leave_tainted, project=route.project, replace_live=replace_live)
        async with self._pool.connection() as connection:
            clean = await lineage.nearest_ancestor(connection, route.project, route.live)
        await self._take_up(route.project, clean, change)

    async def _take_up(self, project: str, policy: str, change: Change, *, requested: bool = False) -> bool:
        """Loads and verifies `policy` on its engines, then makes the change of the route, and answers by it
        once it is committed. Returns False when the change is postponed: no project waits for another's
        engines."""
        if not requested and self._loader.waits(project, policy):
            return False
        try:
            await self._loader.load(project, policy)
            async with self._pool.connection() as connection:
                route = await change(connection)
        except PolicyRejected as error:
            return await self._refuse(project, error, requested=requested)
        except (Conflict, EngineError) as error:
            log.info("promotion_postponed", policy=policy, why=error.message)
            return False
        self.use_route(route)
        return True

    async def _refuse(self, project: str, error: PolicyRejected, *, requested: bool) -> bool:
        """Rejects a policy that fails for good. A request is cancelled at the first failure, which counts
        only where an engine went down. Returns False for a policy that may still pass."""
        counts = not requested or error.reason == "engine_down"
        if counts and await self._loader.fails_for_good(project, error):
            await self._reject(project, error)
        elif requested:
            async with self._pool.connection() as connection:
                await rollout.cancel_request(connection, project, error.policy, error.reason)
            log.error("policy_not_served", policy=error.policy, reason=error.reason, error=error.message)
        else:
            log.warning("promotion_postponed", policy=error.policy, reason=error.reason, why=error.message)
            return False
        return True

    async def _reject(self, project: str, error: PolicyRejected) -> None:
        log.error("policy_rejected", policy=error.policy, reason=error.reason, error=error.message)
        self._metrics.policies_rejected.labels(error.reason).inc()
        async with self._pool.connection() as connection:
            route = await rollout.reject(connection, project, error.policy, error.reason)
        self.use_route(route)

    def _update_router(self, route: Route) -> None:
        before = self._router.find(route.project)
        if not self._router.update(route):
            return
        if before is not None and before.version != route.version:
            self._forget_counts(before, route)
        if before is None or before.live != route.live:
            log.info("policy_live", project=route.project, policy=route.live, previous=route.previous)
            self._metrics.policy_swaps.labels(route.project)
            self._metrics.live_policy.labels(route.project, route.live).set(1)
            if before is not None:
                self._metrics.live_policy.remove(route.project, before.live)
                self._metrics.policy_swaps.labels(route.project).inc()
                self._on_live(route)

    def _forget_counts(self, before: Route, route: Route) -> None:
        """Drops the counters of policies that the route has no more, as each round makes a policy."""
        for policy in set(before.policies()) - set(route.policies()):
            self._metrics.replies.remove(route.project, policy)

    def _required(self) -> set[str]:
        """Returns the adapters that must stay loaded."""
        return self._router.adapters() | {BASE}
