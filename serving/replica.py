"""One engine of the fleet: how it is, what it has loaded, and what it has proved to serve."""

import asyncio
import time
from pathlib import Path

import structlog

from schemas.errors import EngineError, PolicyRejected
from schemas.policies import TRAINING, Probe
from serving.engine import Engine
from serving.proof import distance, passes, telling

log = structlog.get_logger()

_PATIENCE = 3.0  # seconds to say how it is
_FAILURES = 2  # in a row, before an engine that only says nothing counts as lost
_PROOF = 30.0  # seconds to load and answer a probe; vLLM may compile for 18 before its first reply


class Replica:
    """One engine. `resident` is what it has loaded, `proved` what it may answer for, `failed` what it could
    not prove and another replica could. `heard` is when a token last came from it (time.monotonic)."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.healthy = False
        self.streams = 0
        self.heard = 0.0
        self.resident: set[str] = set()
        self.proved: set[str] = set()
        self.failed: set[str] = set()
        self._failures = 0
        self._changes = 0

    @property
    def in_rotation(self) -> bool:
        return self.healthy and not self.failed

    async def look(self) -> bool:
        """Ask the engine how it is and what it holds; whether it answered.

        It is lost at once when nothing listens there any more, so one that restarts between two looks is
        never taken for the one before; else when it said nothing, tokens included, twice in a row.
        """
        asked, changes = time.monotonic(), self._changes
        try:
            adapters = await self._ask()
        except EngineError as error:
            self._failures = 0 if self.heard >= asked else self._failures + 1
            if error.gone or self._failures >= _FAILURES:
                await self.lose(error)
            return False
        if not self.healthy:
            log.info("engine_found", url=self.engine.url, adapters=len(adapters))
        self._failures = 0
        self.healthy = True
        if changes == self._changes:  # else the list may be of before
            self.resident = {policy for policy in adapters if not policy.startswith(TRAINING)}
            self.proved &= self.resident
        return True

    async def lose(self, error: EngineError) -> None:
        """Until it says that it is well, and proves everything again, it answers nobody. Those who still wait
        for it get EngineError; but one that only takes no more requests may end its replies."""
        if not self.healthy:
            return
        log.error("engine_lost", url=self.engine.url, error=error.message)
        self.healthy = False
        self.resident.clear()
        self.proved.clear()
        self.failed.clear()
        if not error.gone:
            await self.engine.close()

    async def prove(self, policy: str, directory: Path, probe: Probe, tolerance: float) -> None:
        """Load `policy` unless it is there, and see that it is what answers. `directory` is absolute.

        Raises PolicyRejected (`load`, `probe`) when the policy is at fault, EngineError when the engine is;
        one that takes too long is.
        """
        try:
            async with asyncio.timeout(_PROOF):
                await self._load(policy, directory)
                await self._probe(policy, probe, tolerance)
        except TimeoutError:
            raise EngineError(
                f"{self.engine.url} did not prove {policy} in {_PROOF:.0f} s", url=self.engine.url, late=True
            ) from None
        self.proved.add(policy)
        if policy in self.failed:
            self.failed.discard(policy)
            log.info("engine_in_rotation", url=self.engine.url, policy=policy, failing=len(self.failed))

    async def drop(self, policy: str) -> None:
        self.proved.discard(policy)
        if policy in self.resident:
            await self.engine.unload(policy)
            self._changes += 1
            self.resident.discard(policy)

    async def _ask(self) -> set[str]:
        """The adapters it has, when it is well. Raises EngineError."""
        try:
            async with asyncio.timeout(_PATIENCE):
                await self.engine.check()
                return await self.engine.adapters()
        except TimeoutError:
            raise EngineError(
                f"{self.engine.url} said nothing in {_PATIENCE:.0f} s", url=self.engine.url, late=True
            ) from None

    async def _load(self, policy: str, directory: Path) -> None:
        if policy in self.resident:
            return
        try:
            await self.engine.load(policy, directory)
        except EngineError as error:
            answers = await self.look()
            if policy not in self.resident:  # another process may have loaded it meanwhile
                if error.status is None or not answers:
                    raise
                raise PolicyRejected(f"{policy}: {error.message}", policy=policy, reason="load") from None
        self._changes += 1
        self.resident.add(policy)

    async def _probe(self, policy: str, probe: Probe, tolerance: float) -> None:
        short = telling(probe)
        measured = await self.engine.probe(policy, probe.token_ids, short.places)
        self.heard = time.monotonic()
        if not passes(short, measured, tolerance):
            raise PolicyRejected(
                f"{policy}: {self.engine.url} does not answer as the manifest says "
                f"({distance(measured, short.logprobs):.3f} nats a token off, "
                f"{distance(measured, short.base_logprobs):.3f} from the base)",
                policy=policy,
                reason="probe",
            )
