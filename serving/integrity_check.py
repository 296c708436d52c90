"""The integrity check verifies, each minute, every adapter that the engines hold: its files against the
registry, and the engine's log-probabilities against the manifest's.

Who reaches an engine's port can unload an adapter and load another under its name. Such an adapter is
unloaded, and the swap loads and verifies the right one. Files that are no longer what was published
are logged and counted; an adapter that an engine loaded before goes on answering while its log-probabilities
are right. Of several serving processes one checks each adapter of an engine.
"""

import asyncio

import structlog
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from schemas.database import AsyncPool
from schemas.errors import Conflict, EngineError, PolicyRejected
from schemas.policies import Probe
from schemas.verification import RegisteredPolicy
from serving import shared_checks
from serving.fleet import Fleet
from serving.metrics import Metrics
from serving.policy_files import PolicyFiles, registered
from serving.replica import Replica
from serving.router import Route, Router

log = structlog.get_logger()

INTERVAL = 60.0
"""Seconds from one check to the next."""


class IntegrityCheck:
    """Checks what the engines of a fleet hold for the routes in use."""

    def __init__(
        self,
        pool: AsyncPool,
        fleet: Fleet,
        router: Router,
        files: PolicyFiles,
        metrics: Metrics,
        tolerance: float,
    ) -> None:
        self._pool = pool
        self._fleet = fleet
        self._router = router
        self._files = files
        self._metrics = metrics
        self._tolerance = tolerance
        self._probes: dict[str, Probe] = {}

    async def run(self) -> bool:
        """Checks once; returns whether an adapter was taken from an engine. Raises as the database does."""
        adapters = self._resident()
        self._probes = {name: probe for name, probe in self._probes.items() if name in adapters}
        damaged, taken = 0, False
        for name, (route, policy) in adapters.items():
            async with self._pool.connection() as connection:
                row = await self._row(connection, route, policy)
                replicas = await shared_checks.claim(connection, name, self._holding(name), INTERVAL / 2)
            if row is not None:
                damaged += not await self._files_are_whole(registered(route.project, policy, row), name)
            if name in self._probes:
                found = await asyncio.gather(*(self._replaced(replica, name) for replica in replicas))
                taken = any(found) or taken
        self._metrics.policies_damaged.set(damaged)
        return taken

    def _resident(self) -> dict[str, tuple[Route, str]]:
        """Returns the adapters that answer somewhere, each with a route and the policy that it is there."""
        served = self._fleet.served()
        return {
            route.adapter(policy): (route, policy)
            for route in self._router.routes()
            for policy in route.policies()
            if route.adapter(policy) in served
        }

    def _holding(self, adapter: str) -> list[Replica]:
        return [replica for replica in self._fleet.in_rotation if adapter in replica.verified]

    async def _row(self, connection: AsyncConnection[DictRow], route: Route, policy: str) -> DictRow | None:
        cursor = await connection.execute(
            "select directory, digest, signature from policies where project = %s and id = %s"
            " and files_deleted_at is null",
            [route.project, policy],
        )
        return await cursor.fetchone()

    async def _files_are_whole(self, policy: RegisteredPolicy, adapter: str) -> bool:
        try:
            manifest = await asyncio.to_thread(self._files.verify_again, policy)
        except (PolicyRejected, Conflict) as error:
            log.critical("policy_files_damaged", project=policy.project, policy=policy.id, error=str(error))
            return False
        self._probes[adapter] = manifest.probe
        return True

    async def _replaced(self, replica: Replica, adapter: str) -> bool:
        """Unloads an adapter if its engine twice answers unlike the policy; returns whether it did."""
        probe = self._probes[adapter]
        try:
            for _ in range(2):
                if await replica.answers_as(adapter, probe, self._tolerance):
                    return False
            await self._take(replica, adapter)
        except EngineError as error:
            url, message = replica.engine.url, error.message
            log.warning("integrity_check_failed", url=url, adapter=adapter, error=message)
            return False
        return True

    async def _take(self, replica: Replica, adapter: str) -> None:
        log.critical(
            "adapter_replaced",
            url=replica.engine.url,
            adapter=adapter,
            advice="something else was loaded under its name: restart the engine, with a new vllm.key",
        )
        self._metrics.adapters_replaced.inc()
        async with self._pool.connection() as connection:
            await shared_checks.remove(connection, adapter, replica)
        await replica.unload(adapter)
