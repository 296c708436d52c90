"""The engines in use: which of them are healthy, what they have proved to serve, and who takes a request.

A replica answers for a policy only after it has loaded the directory and passed its probe; an engine that
restarted has lost its adapters and proves them again. One that fails where another passes is at fault itself
and answers nobody until it passes. Nothing is stored: the engines are the truth.
"""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import Any

import structlog

from schemas.addresses import resolve
from schemas.errors import EngineError, PolicyRejected, Unavailable
from schemas.policies import Probe
from serving.engine import Delta, Engine
from serving.replica import Replica

log = structlog.get_logger()

_RESOLVING = 1.0  # seconds to wait for the names of engines; after that, the addresses of before are good
_GRACE = 10.0  # seconds that a policy nobody wants here stays: another process may not have heard of it yet
_AFFINITY = 4  # streams more than the least loaded that a conversation's own replica may have


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
        self._addresses: list[str] = []
        self._resolving: asyncio.Task[list[str]] | None = None
        self._catching_up: dict[Replica, asyncio.Task[None]] = {}
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
            if policy not in replica.proved:  # lost, while we waited for another
                continue
            begun = False
            heard = time.monotonic()
            replica.streams += sampling["n"]
            try:
                async with aclosing(replica.engine.stream(policy, messages, sampling)) as deltas:
                    async for delta in deltas:
                        begun = True
                        replica.heard = heard = time.monotonic()
                        yield delta
                return
            except EngineError as error:
                log.warning("engine_failed", url=replica.engine.url, begun=begun, error=error.message)
                if error.gone or (error.late and replica.heard <= heard):  # nobody else heard of it either
                    await replica.lose(error)
                if begun:
                    raise
            finally:
                replica.streams -= sampling["n"]
        raise Unavailable("No engine can answer now; try again soon.", retry_after=2)

    async def look(self) -> None:
        """See which engines there are and how they do. One whose address is gone is forgotten when it no
        longer answers either, and its last reply has ended."""
        urls = await self._resolved()
        known = {replica.engine.url for replica in self.replicas}
        self.replicas += [Replica(Engine(url, self._timeout)) for url in urls if url not in known]
        await asyncio.gather(*(replica.look() for replica in self.replicas))
        for replica in self.replicas.copy():
            if replica.engine.url not in urls and not replica.healthy and not replica.streams:
                self.replicas.remove(replica)
                await replica.engine.close()

    async def prove(self, policy: str, directory: Path, probe: Probe, tolerance: float) -> None:
        """Make every healthy replica serve `policy`. A replica that cannot is out of rotation when another
        can; when none can, raises what the first raised, an EngineError before a PolicyRejected; EngineError,
        too, when there is no engine.

        One that is out of rotation tries again, but nobody waits for it while another serves."""
        lacking = [replica for replica in self.healthy if policy not in replica.proved]
        asked = [replica for replica in lacking if not (replica.failed and self.in_rotation)]
        for replica in lacking:
            if replica not in asked and replica not in self._catching_up:
                work = self._catch_up(replica, policy, directory, probe, tolerance)
                self._catching_up[replica] = asyncio.create_task(work)
        results = await asyncio.gather(
            *(replica.prove(policy, directory, probe, tolerance) for replica in asked),
            return_exceptions=True,
        )
        failures = [
            (replica, result) for replica, result in zip(asked, results, strict=True) if result is not None
        ]
        if any(policy in replica.proved for replica in self.healthy):
            for replica, failure in failures:
                if replica.healthy and policy not in replica.failed:
                    replica.failed.add(policy)
                    log.error("engine_out_of_rotation", url=replica.engine.url, error=str(failure))
            return
        for _, failure in sorted(failures, key=lambda found: isinstance(found[1], PolicyRejected)):
            raise failure
        if not self.healthy:
            raise EngineError(f"no engine is there to prove {policy}", url=", ".join(self._urls))

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
                    try:
                        await replica.drop(policy)
                    except EngineError as error:
                        log.warning(
                            "engine_keeps", url=replica.engine.url, policy=policy, error=error.message
                        )
                        break

    def room(self, policy: str, most: int) -> bool:
        """Whether every healthy replica holds `policy` or has a slot left for it, of `most`."""
        return all(policy in replica.resident or len(replica.resident) < most for replica in self.healthy)

    async def close(self) -> None:
        for task in filter(None, [self._resolving, *self._catching_up.values()]):
            task.cancel()
        await asyncio.gather(*(replica.engine.close() for replica in self.replicas))

    async def _catch_up(
        self, replica: Replica, policy: str, directory: Path, probe: Probe, tolerance: float
    ) -> None:
        try:
            with suppress(EngineError, PolicyRejected):  # it stays out, and is asked again
                await replica.prove(policy, directory, probe, tolerance)
        finally:
            del self._catching_up[replica]

    async def _resolved(self) -> list[str]:
        """The engines' own URLs; while a name's resolver hangs, those that were found before."""
        self._resolving = self._resolving or asyncio.create_task(resolve(self._urls))
        await asyncio.wait({self._resolving}, timeout=_RESOLVING)
        if self._resolving.done():
            found, self._resolving = self._resolving, None
            self._addresses = found.result()
        return self._addresses
