"""The engines in use: which of them are healthy, what they have proved to serve, and who takes a request.

A replica answers for a policy only after it has loaded the directory and passed its probe; an engine that
restarted has lost its adapters and proves them again. One that fails where another passes is at fault itself
and answers nobody until it passes. Nothing is stored: the engines are the truth.
"""

import asyncio
import hashlib
import math
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from schemas.addresses import resolve
from schemas.errors import EngineError, PolicyRejected, Unavailable
from schemas.policies import TRAINING, Probe
from serving.engine import Delta, Engine

log = structlog.get_logger()

_PATIENCE = 5.0  # seconds to say how it is
_PLACES = 8  # tokens of a probe that are asked for
_FAILURES = 3  # in a row, before an engine that was reachable counts as ill
_GRACE = 10.0  # seconds that a policy nobody wants here stays: another process may not have heard of it yet
_AFFINITY = 4  # streams more than the least loaded that a conversation's own replica may have


class Replica:
    """One engine. `resident` is what it has loaded, `proved` what it may answer for, `failed` what it could
    not prove and another replica could."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.healthy = False
        self.streams = 0
        self.resident: set[str] = set()
        self.proved: set[str] = set()
        self.failed: set[str] = set()
        self._failures = 0

    @property
    def in_rotation(self) -> bool:
        return self.healthy and not self.failed

    async def look(self) -> bool:
        """Ask the engine how it is and what it holds; whether it answered."""
        try:
            async with asyncio.timeout(_PATIENCE):
                resident = {
                    policy for policy in await self.engine.adapters() if not policy.startswith(TRAINING)
                }
        except (EngineError, TimeoutError) as error:
            self._failures += 1
            if self.healthy and self._failures >= _FAILURES:
                log.error("engine_lost", url=self.engine.url, error=str(error))
                self.healthy = False
                self.proved.clear()
                self.failed.clear()
            return False
        if not self.healthy:
            log.info("engine_found", url=self.engine.url, adapters=len(resident))
        self._failures = 0
        self.healthy = True
        self.resident = resident
        self.proved &= resident
        return True

    async def prove(self, policy: str, directory: Path, probe: Probe, tolerance: float) -> None:
        """Load `policy` unless it is there, and see that it is what answers. `directory` is absolute.

        Raises PolicyRejected (`load`, `probe`) when the policy is at fault, EngineError when the engine is.
        """
        if policy not in self.resident:
            try:
                await self.engine.load(policy, directory)
            except EngineError as error:
                answers = await self.look()
                if policy not in self.resident:  # another process may have loaded it meanwhile
                    if error.status is None or not answers:
                        raise
                    raise PolicyRejected(f"{policy}: {error.message}", policy=policy, reason="load") from None
            self.resident.add(policy)
        short = telling(probe)
        measured = await self.engine.probe(policy, probe.token_ids, short.places)
        if not passes(short, measured, tolerance):
            raise PolicyRejected(
                f"{policy}: {self.engine.url} does not answer as the manifest says "
                f"({distance(measured, short.logprobs):.3f} nats a token off, "
                f"{distance(measured, short.base_logprobs):.3f} from the base)",
                policy=policy,
                reason="probe",
            )
        self.proved.add(policy)
        if policy in self.failed:
            self.failed.discard(policy)
            log.info("engine_in_rotation", url=self.engine.url, policy=policy, failing=len(self.failed))

    async def drop(self, policy: str) -> None:
        self.proved.discard(policy)
        if policy in self.resident:
            await self.engine.unload(policy)
            self.resident.discard(policy)


@dataclass(frozen=True, slots=True)
class Telling:
    """What is asked of a probe: the log-probabilities (nats) at `places`, the adapter's and the base's."""

    places: list[int]
    logprobs: list[float]
    base_logprobs: list[float]


def telling(probe: Probe) -> Telling:
    """The _PLACES tokens at which adapter and base differ most."""
    by_difference = sorted(
        range(len(probe.logprobs)), key=lambda at: -abs(probe.logprobs[at] - probe.base_logprobs[at])
    )
    chosen = sorted(by_difference[:_PLACES])
    return Telling(
        [at + 1 for at in chosen],
        [probe.logprobs[at] for at in chosen],
        [probe.base_logprobs[at] for at in chosen],
    )


def distance(left: list[float], right: list[float]) -> float:
    """Mean absolute difference, nats a token; infinite when they are not comparable."""
    if not left or len(left) != len(right):
        return math.inf
    mean = sum(abs(a - b) for a, b in zip(left, right, strict=True)) / len(left)
    return mean if math.isfinite(mean) else math.inf


def passes(probe: Telling, measured: list[float], tolerance: float) -> bool:
    """Near to what the manifest says and, where the two can be told apart, nearer to it than to the base."""
    own = distance(measured, probe.logprobs)
    if not own <= tolerance:
        return False
    if distance(probe.logprobs, probe.base_logprobs) <= tolerance:
        return True
    return own < distance(measured, probe.base_logprobs)


def preferred(replicas: Iterable[Replica], conversation_id: str) -> list[Replica]:
    """In the order to try them: a conversation's own replica first, which has its prefix in cache (rendezvous
    hashing: Thaler and Ravishankar 1998), unless that is clearly busier; then the least loaded."""
    by_load = sorted(replicas, key=lambda replica: replica.streams)
    near = [replica for replica in by_load if replica.streams <= by_load[0].streams + _AFFINITY]
    own = max(near, key=lambda replica: _affinity(replica.engine.url, conversation_id), default=None)
    return sorted(by_load, key=lambda replica: replica is not own)


def _affinity(url: str, conversation_id: str) -> bytes:
    return hashlib.blake2b(f"{url}\0{conversation_id}".encode(), digest_size=8).digest()


class Fleet:
    """The engines that answer at `urls` (see `addresses`). `timeout` is the longest wait for an engine's next
    token, seconds; `context` the base model's, in tokens, where it is known."""

    def __init__(self, urls: list[str], timeout: float, context: int | None = None) -> None:
        self.replicas: list[Replica] = []
        self.context = context
        self._urls = urls
        self._timeout = timeout
        self._held: Counter[str] = Counter()
        self._unwanted: dict[str, float] = {}  # since when, of the policies that are to go

    @property
    def healthy(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.healthy]

    @property
    def in_rotation(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.in_rotation]

    def serves(self, policy: str) -> bool:
        """Whether some replica in rotation has proved `policy`."""
        return any(policy in replica.proved for replica in self.in_rotation)

    def served(self) -> set[str]:
        """Every policy that some replica in rotation has proved."""
        return set().union(*(replica.proved for replica in self.in_rotation))

    @contextmanager
    def hold(self, policy: str) -> Iterator[None]:
        """While a request is answered by `policy`, this process does not unload it."""
        self._held[policy] += 1
        try:
            yield
        finally:
            self._held[policy] -= 1

    async def stream(
        self, policy: str, conversation_id: str, messages: list[dict[str, Any]], sampling: dict[str, Any]
    ) -> AsyncGenerator[Delta]:
        """A reply from the preferred replica, or from the next one if that fails before its first token.

        Raises Unavailable when none could begin, EngineError when one failed half way, InvalidRequest for
        what no engine would answer. Closing the iterator stops the generation.
        """
        able = [replica for replica in self.in_rotation if policy in replica.proved]
        for replica in preferred(able, conversation_id):
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
        """See which engines there are and how they do. One whose address is gone is forgotten when it no
        longer answers either."""
        urls = await resolve(self._urls)
        known = {replica.engine.url for replica in self.replicas}
        self.replicas += [Replica(Engine(url, self._timeout)) for url in urls if url not in known]
        await asyncio.gather(*(replica.look() for replica in self.replicas))
        for replica in [each for each in self.replicas if not each.healthy and each.engine.url not in urls]:
            self.replicas.remove(replica)
            await replica.engine.close()

    async def prove(self, policy: str, directory: Path, probe: Probe, tolerance: float) -> None:
        """Make every healthy replica serve `policy`. A replica that cannot is out of rotation when another
        can; when none can, raises what the first raised, an EngineError before a PolicyRejected."""
        lacking = [replica for replica in self.healthy if policy not in replica.proved]
        results = await asyncio.gather(
            *(replica.prove(policy, directory, probe, tolerance) for replica in lacking),
            return_exceptions=True,
        )
        failures = [
            (replica, result) for replica, result in zip(lacking, results, strict=True) if result is not None
        ]
        if any(policy in replica.proved for replica in self.healthy):
            for replica, failure in failures:
                if policy not in replica.failed:
                    replica.failed.add(policy)
                    log.error("engine_out_of_rotation", url=replica.engine.url, error=str(failure))
            return
        for _, failure in sorted(failures, key=lambda found: isinstance(found[1], PolicyRejected)):
            raise failure

    async def keep(self, wanted: set[str], *, at_once: bool = False) -> None:
        """Unload everything else that no request is using: what has not been wanted for a while, or all of it
        `at_once`."""
        now = time.monotonic()
        grace = 0.0 if at_once else _GRACE
        resident = set().union(*(replica.resident for replica in self.healthy))
        self._unwanted = {policy: self._unwanted.get(policy, now) for policy in resident - wanted}
        for replica in self.healthy:
            replica.failed &= wanted
            for policy in sorted(replica.resident & self._unwanted.keys()):
                if not self._held[policy] and now - self._unwanted[policy] >= grace:
                    await replica.drop(policy)

    def room(self, policy: str, most: int) -> bool:
        """Whether every healthy replica holds `policy` or has a slot left for it, of `most`."""
        return all(policy in replica.resident or len(replica.resident) < most for replica in self.healthy)

    async def close(self) -> None:
        await asyncio.gather(*(replica.engine.close() for replica in self.replicas))
