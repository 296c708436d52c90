"""A policy is loaded on its engines once its files are verified, and answers once each engine has proved it.

One that fails is tried again, since the replica may be at fault; one that goes on failing in the same way
fails for good, and sooner where each attempt costs people an engine or holds up other policies.
"""

import asyncio
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

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
"""Attempts in which an engine that answered for another policy directly before went down, or was too slow
with this one alone, after which a policy fails for good."""

PAUSE_SECONDS = 60.0
"""Seconds from one such attempt to the next, for which an engine is up before it, too: engines that restart
for other reasons prove nothing."""

MAY_CHANGE = ("load", "engine_error", "timeout", "engine_down", "missing", "unsigned")
"""Reasons for which the replica may well be at fault."""

COSTLY = ("timeout", "engine_down")
"""Those of which the attempts are counted."""


class Attempts(NamedTuple):
    """How many costly attempts at a policy failed, and when the last one did (time.monotonic)."""

    number: int
    last: float


class PolicyLoader:
    """Loads the policies of the registry on the engines of one process."""

    def __init__(self, settings: Settings, pool: AsyncPool, fleet: Fleet, files: PolicyFiles) -> None:
        self._pool = pool
        self._fleet = fleet
        self._files = files
        self._tolerance = settings.engine.probe_tolerance
        self._failing_since: dict[tuple[str, str, str], float] = {}
        self._attempts: dict[tuple[str, str], Attempts] = {}

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
        self._attempts.pop((project, policy), None)

    def waits(self, project: str, policy: str) -> bool:
        """Returns whether the next attempt at a policy, of which the last one was costly, is not due yet."""
        failed = self._attempts.get((project, policy))
        if failed is None:
            return False
        return min(time.monotonic() - failed.last, self._fleet.uptime) < PAUSE_SECONDS

    async def fails_for_good(self, project: str, error: PolicyRejected) -> bool:
        """Returns whether a policy has failed in the same way for so long, or at such a cost so often, that it
        must be rejected.

        It may be the replica that is at fault: a disk that is away for a while, or a mount without the newest
        files. So it counts only while the engines serve the base, the time is longer where files are missing,
        and the base, which has no replacement, never fails for good.
        """
        if error.policy == BASE:
            return False
        if error.reason in COSTLY:
            before = self._attempts.get((project, error.policy))
            number = before.number + 1 if before else 1
            self._attempts[project, error.policy] = Attempts(number, time.monotonic())
            return number >= MOST_ATTEMPTS
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
