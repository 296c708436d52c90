"""The engines in use: which of them are healthy, what they have proved to serve, and who takes a request.

A replica answers for a policy only after it has loaded the directory and passed its probe; an engine that
restarted has lost its adapters and proves them again. Nothing is stored: the engines are the truth.
"""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import structlog

from schemas.errors import EngineError, PolicyRejected, Unavailable
from schemas.policies import Probe
from serving.engine import Delta, Engine

log = structlog.get_logger()

_PATIENCE = 5.0  # seconds to say how it is
_FAILURES = 3  # in a row, before an engine that was reachable counts as ill


class Replica:
    """One engine. `resident` is what it has loaded, `proved` what it may answer for."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.healthy = False
        self.streams = 0
        self.resident: set[str] = set()
        self.proved: set[str] = set()
        self._failures = 0

    async def look(self) -> None:
        """Ask the engine how it is and what it holds."""
        try:
            async with asyncio.timeout(_PATIENCE):
                resident = await self.engine.adapters()
        except (EngineError, TimeoutError) as error:
            self._failures += 1
            if self.healthy and self._failures >= _FAILURES:
                log.error("engine_lost", url=self.engine.url, error=str(error))
                self.healthy = False
                self.proved.clear()
            return
        if not self.healthy:
            log.info("engine_found", url=self.engine.url, adapters=len(resident))
        self._failures = 0
        self.healthy = True
        self.resident = resident
        self.proved &= resident

    async def prove(self, policy: str, directory: Path, probe: Probe, tolerance: float) -> None:
        """Load `policy` unless it is there, and see that it is what answers. `directory` is absolute.

        Raises PolicyRejected (`load`, `probe`) when the policy is at fault, EngineError when the engine is.
        """
        if policy not in self.resident:
            try:
                await self.engine.load(policy, directory)
            except EngineError as error:
                await self.look()  # another process may have loaded it meanwhile
                if policy not in self.resident:
                    if error.status is None or error.status >= 500:
                        raise
                    raise PolicyRejected(f"{policy}: {error.message}", policy=policy, reason="load") from None
            self.resident.add(policy)
        measured = await self.engine.probe(policy, probe.token_ids)
        if not passes(probe, measured, tolerance):
            raise PolicyRejected(
                f"{policy}: {self.engine.url} does not answer as the manifest says "
                f"({distance(measured, probe.logprobs):.3f} nats a token off, "
                f"{distance(measured, probe.base_logprobs):.3f} from the base)",
                policy=policy,
                reason="probe",
            )
        self.proved.add(policy)

    async def drop(self, policy: str) -> None:
        self.proved.discard(policy)
        if policy in self.resident:
            await self.engine.unload(policy)
            self.resident.discard(policy)


def distance(left: list[float], right: list[float]) -> float:
    """Mean absolute difference, nats a token; infinite when they are not comparable."""
    if not left or len(left) != len(right):
        return math.inf
    mean = sum(abs(a - b) for a, b in zip(left, right, strict=True)) / len(left)
    return mean if math.isfinite(mean) else math.inf


def passes(probe: Probe, measured: list[float], tolerance: float) -> bool:
    """Near to what the manifest says and, where the two can be told apart, nearer to it than to the base."""
    own = distance(measured, probe.logprobs)
    if not own <= tolerance:
        return False
    if distance(probe.logprobs, probe.base_logprobs) <= tolerance:
        return True
    return own < distance(measured, probe.base_logprobs)


class Fleet:
    """All replicas of this installation. `context` is the base model's, in tokens, where it is known."""

    def __init__(self, engines: list[Engine], context: int | None = None) -> None:
        self.replicas = [Replica(engine) for engine in engines]
        self.context = context
        self._held: Counter[str] = Counter()

    @property
    def healthy(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.healthy]

    def serves(self, policy: str) -> bool:
        """Whether some healthy replica has proved `policy`."""
        return any(policy in replica.proved for replica in self.healthy)

    def served(self) -> set[str]:
        """Every policy that some healthy replica has proved."""
        return set().union(*(replica.proved for replica in self.healthy))

    @contextmanager
    def hold(self, policy: str) -> Iterator[None]:
        """While a request is answered by `policy`, this process does not unload it."""
        self._held[policy] += 1
        try:
            yield
        finally:
            self._held[policy] -= 1

    async def stream(
        self, policy: str, messages: list[dict[str, Any]], sampling: dict[str, Any]
    ) -> AsyncGenerator[Delta]:
        """A reply from the least loaded replica, or from the next one if that fails before its first token.

        Raises Unavailable when none could begin, EngineError when one failed half way, InvalidRequest for
        what no engine would answer. Closing the iterator stops the generation.
        """
        able = [replica for replica in self.healthy if policy in replica.proved]
        for replica in sorted(able, key=lambda replica: replica.streams):
            begun = False
            replica.streams += sampling["n"]
            try:
                async with aclosing(replica.engine.stream(policy, messages, sampling)) as deltas:
                    async for delta in deltas:
                        begun = True
                        yield delta
                return
            except EngineError as error:
                log.warning("engine_failed", url=replica.engine.url, begun=begun, error=error.message)
                if begun:
                    raise
            finally:
                replica.streams -= sampling["n"]
        raise Unavailable("No engine can answer now; try again soon.", retry_after=2)

    async def look(self) -> None:
        await asyncio.gather(*(replica.look() for replica in self.replicas))

    async def prove(self, policy: str, directory: Path, probe: Probe, tolerance: float) -> None:
        """Make every healthy replica serve `policy`. Raises what the first failing one raised, once all have
        tried."""
        lacking = [replica for replica in self.healthy if policy not in replica.proved]
        results = await asyncio.gather(
            *(replica.prove(policy, directory, probe, tolerance) for replica in lacking),
            return_exceptions=True,
        )
        for result in results:
            if result is not None:
                raise result

    async def keep(self, wanted: set[str]) -> None:
        """Unload everything else that no request is using."""
        for replica in self.healthy:
            for policy in sorted(replica.resident - wanted):
                if not self._held[policy]:
                    await replica.drop(policy)

    def room(self, policy: str, most: int) -> bool:
        """Whether every healthy replica holds `policy` or has a slot left for it, of `most`."""
        return all(policy in replica.resident or len(replica.resident) < most for replica in self.healthy)

    async def close(self) -> None:
        await asyncio.gather(*(replica.engine.close() for replica in self.replicas))
