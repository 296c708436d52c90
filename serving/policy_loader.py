"""A policy is loaded on its engines once its files are verified, and answers once each engine has proved it.

One that fails is tried again, since the replica may be at fault; one that goes on failing in the same way
fails for good, and after few attempts where engines go down with it.
"""

import asyncio
import time
from functools import partial
from pathlib import Path

from schemas.database import AsyncPool
from schemas.errors import PolicyRejected
from schemas.policies import BASE, MANIFEST, adapter_name
from schemas.settings import Settings
from schemas.verification import RegisteredPolicy
from serving import rollout, shared_checks
from serving.fleet import Fleet
from serving.policy_files import PolicyFiles, registered

DAMAGED_SECONDS = 120.0
"""Seconds for which a policy fails in the same way before it fails for good."""

MISSING_SECONDS = 600.0
"""The same where it is unsigned, its files are missing, though the base's are not, or engines that serve
others fail with it."""

MOST_ATTEMPTS = 3
"""Attempts in which an engine went down that answered for another policy directly before, after which a
policy fails for good."""

PAUSE_SECONDS = 60.0
"""Seconds from one such attempt to the next, before which an engine is up for as long: one that restarts for
other reasons proves nothing."""

MAY_CHANGE = ("load", "engine_error", "timeout", "engine_down", "missing", "unsigned")
"""Reasons for which the replica may well be at fault."""


class PolicyLoader:
    """Loads the policies of the registry on the engines of one process."""

    def __init__(self, settings: Settings, pool: AsyncPool, fleet: Fleet, files: PolicyFiles) -> None:
        self._pool = pool
        self._fleet = fleet
        self._files = files
        self._tolerance = settings.engine.probe_tolerance
        self._failing_since: dict[tuple[str, str, str], float] = {}
        self._went_down: dict[tuple[str, str], list[float]] = {}  # time.monotonic of each such attempt

    async def load(self, project: str, policy: str) -> None:
        """Loads and verifies `policy` on the engines that are to hold it. Raises PolicyRejected, Conflict and
        EngineError."""
        found = await self._registered(project, policy)
        name = adapter_name(project, policy, found.digest)
        lacking = self._fleet.lacking(name)
        async with self._pool.connection() as connection:
            await shared_checks.adopt(connection, name, lacking)
        if not self._fleet.serves_everywhere(name):
            manifest, stamp = await asyncio.to_thread(self._files.verify, found)
            try:
                await self._fleet.verify(name, found.directory, manifest.probe, self._tolerance)
                await self._fleet.keep_if(name, partial(self._files.require_unchanged, found, stamp))
            except PolicyRejected as error:
                raise PolicyRejected(error.message, policy=policy, reason=error.reason) from None
            async with self._pool.connection() as connection:
                await shared_checks.record(connection, name, lacking)
        self._failing_since = {
            failure: since
            for failure, since in self._failing_since.items()
            if failure[:2] != (project, policy)
        }
        self._went_down.pop((project, policy), None)

    def waits(self, project: str, policy: str) -> bool:
        """Returns whether the next attempt at a policy with which an engine went down is not due yet."""
        attempts = self._went_down.get((project, policy))
        if attempts is None:
            return False
        return min(time.monotonic() - attempts[-1], self._fleet.uptime) < PAUSE_SECONDS

    async def fails_for_good(self, project: str, error: PolicyRejected) -> bool:
        """Returns whether a policy has failed in the same way for so long, or engines went down with it so
        often, that it must be rejected.

        It may be the replica that is at fault: a disk that is away for a while, or a mount without the newest
        files. So it counts only while the engines serve the base, the time is longer where files are missing,
        and the base, which has no replacement, never fails for good.
        """
        if error.policy == BASE:
            return False
        if error.reason == "engine_down":
            attempts = self._went_down.setdefault((project, error.policy), [])
            attempts.append(time.monotonic())
            if len(attempts) < MOST_ATTEMPTS:
                return False
            del self._went_down[project, error.policy]
            return True
        if not self._fleet.serves(BASE):
            return False
        if error.reason == "parent_rolled_back":
            return True
        of_base = (await self._registered(project, BASE)).directory
        base_is_there = await asyncio.to_thread(is_there, of_base / MANIFEST)  # a mount may hang
        now, failure = time.monotonic(), (project, error.policy, error.reason)
        if not base_is_there:
            self._failing_since.pop(failure, None)
            return False
        limit = MISSING_SECONDS if error.reason in MAY_CHANGE else DAMAGED_SECONDS
        return now - self._failing_since.setdefault(failure, now) >= limit

    async def _registered(self, project: str, policy: str) -> RegisteredPolicy:
        """Returns a policy of the registry. Raises PolicyRejected and Conflict."""
        async with self._pool.connection() as connection:
            await rollout.check_not_pruned(connection, project, policy)
            cursor = await connection.execute(
                "select directory, digest, signature from policies where project = %s and id = %s",
                [project, policy],
            )
            row = await cursor.fetchone()
        if row is None:
            raise PolicyRejected(f"{policy} is not in the registry", policy=policy, reason="missing")
        return registered(project, policy, row)


def is_there(path: Path) -> bool:
    """Returns whether there is such a file; a mount that answers with an error has none."""
    try:
        return path.is_file()
    except OSError:
        return False
