"""The fleet is the load balancer over engine replicas: health checks, adapter verification, and the choice of
a replica for each request.

A replica answers for an adapter only after it has loaded the adapter and passed its probe. An engine that
restarted has lost its adapters and is verified again. A replica that fails where another passes is itself at
fault, and is out of rotation until it passes. Nothing is stored: the engines are the source of truth.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import Any

import structlog

from schemas.addresses import resolve
from schemas.errors import EngineError, InvalidRequest, NotFound, PolicyRejected, Unavailable
from schemas.policies import BASE, Probe
from serving.engine import Delta, EngineClient
from serving.placement import assigned, engines_per_project, ranked
from serving.replica import UNKNOWN_ADAPTER, Replica

log = structlog.get_logger()

_RESOLVE_TIMEOUT = 1.0  # seconds for name resolution, after which the addresses found before are used
_UNLOAD_DELAY = 10.0  # seconds that an unused adapter stays loaded, for other processes to stop using it
_MAX_IMBALANCE = 4  # streams more than the least loaded replica that a conversation's own replica may have


def rank_replicas(replicas: Iterable[Replica], conversation_id: str) -> list[Replica]:
    """Returns the replicas in the order to try them. A conversation's own replica is first, as it has the
    prefix cached (by rendezvous hashing), unless it is clearly busier; then the least loaded."""
    by_load = sorted(replicas, key=lambda replica: replica.streams)
    near = [replica for replica in by_load if replica.streams <= by_load[0].streams + _MAX_IMBALANCE]
    own = next(iter(ranked(near, conversation_id)), None)
    return sorted(by_load, key=lambda replica: replica is not own)


class Fleet:
    """The engines at `urls` (see `addresses`), which ask for `key` if that is given. `timeout` is the longest
    wait for an engine's next token, seconds; `context` the base model's context length in tokens, where it is
    known; `capacity` the number of adapters that an engine has in memory at once, if that is bounded.
    `replaced` is called for each adapter that a health check finds replaced."""

    def __init__(
        self,
        urls: list[str],
        timeout: float,
        context: int | None = None,
        capacity: int | None = None,
        key: str | None = None,
        replaced: Callable[[], None] = lambda: None,
    ) -> None:
        self.replicas: list[Replica] = []
        self.context = context
        self._urls = urls
        self._addresses: list[str] = []
        self._resolving: asyncio.Task[list[str]] | None = None
        self._verifying: dict[Replica, asyncio.Task[None]] = {}
        self._timeout = timeout
        self.capacity = capacity
        self._key = key
        self._replaced = replaced
        self._required: set[str] = set()
        self._placed: dict[str, list[Replica]] = {}
        self._placed_for: tuple[int, list[Replica]] = 0, []
        self._in_use: Counter[str] = Counter()

    @property
    def healthy(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.healthy]

    @property
    def in_rotation(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.in_rotation]

    @property
    def uptime(self) -> float:
        """Seconds for which the engine has been up that is up for longest; 0 without one."""
        now = time.monotonic()
        return max((now - replica.up_since for replica in self.healthy), default=0.0)

    def serves(self, adapter: str) -> bool:
        """Returns whether `adapter` is verified on a replica in rotation."""
        return any(adapter in replica.verified for replica in self.in_rotation)

    def require(self, adapters: set[str]) -> None:
        """Says which adapters are to be served. How many there are decides how many replicas hold each."""
        self._required = adapters
        self._placed = {adapter: self._placed[adapter] for adapter in self._placed.keys() & adapters}

    def assigned(self, adapter: str) -> list[Replica]:
        """Returns the healthy replicas that are to hold `adapter`."""
        healthy = self.healthy
        count = len(healthy)
        if self.capacity is not None:
            count = engines_per_project(len(healthy), len(self._required), self.capacity)
        if (count, healthy) != self._placed_for:
            self._placed_for, self._placed = (count, healthy), {}
        if adapter not in self._placed:
            self._placed[adapter] = assigned(healthy, adapter, count)
        return self._placed[adapter]

    def lacking(self, adapter: str) -> list[Replica]:
        """Returns the replicas that are to hold `adapter` and on which it is not verified."""
        return [replica for replica in self.assigned(adapter) if adapter not in replica.verified]

    def serves_everywhere(self, adapter: str) -> bool:
        """Returns whether `adapter` is verified on every replica that is to hold it, and there is one."""
        replicas = self.assigned(adapter)
        return bool(replicas) and all(adapter in replica.verified for replica in replicas)

    def served(self) -> set[str]:
        """Returns every adapter that is verified on a replica in rotation."""
        return set().union(*(replica.verified for replica in self.in_rotation))

    def check_supported(self, fields: set[str]) -> None:
        """Raises InvalidRequest (`unsupported_parameter`) for a field of a chat request that an engine in
        rotation does not have: it would be ignored in silence."""
        for replica in self.in_rotation:
            known = replica.description.fields
            if known is not None and (lacking := fields - known):
                raise InvalidRequest(
                    f"{min(lacking)} is not supported by {replica.description.name} here; leave it out.",
                    code="unsupported_parameter",
                    param=min(lacking),
                )

    @contextmanager
    def hold(self, adapter: str) -> Iterator[None]:
        """Keeps `adapter` loaded while a request uses it (a reference count)."""
        self._in_use[adapter] += 1
        try:
            yield
        finally:
            self._in_use[adapter] -= 1
            if not self._in_use[adapter]:
                del self._in_use[adapter]

    async def stream(
        self, adapter: str, conversation_id: str, messages: list[dict[str, Any]], parameters: dict[str, Any]
    ) -> AsyncGenerator[Delta]:
        """Yields a reply from the first-ranked replica, or from the next if that fails before its first
        token.

        Raises Unavailable when none could start, EngineError when one failed half way, InvalidRequest for a
        request that no engine would answer. Closing the iterator stops the generation.
        """
        able = [replica for replica in self.in_rotation if adapter in replica.verified]
        for replica in rank_replicas(able, conversation_id):
            if adapter not in replica.verified:  # it was marked down while another was tried
                continue
            started = False
            last_token = time.monotonic()
            replica.streams += parameters["n"]
            try:
                async with aclosing(replica.engine.stream(adapter, messages, parameters)) as deltas:
                    async for delta in deltas:
                        started = True
                        replica.last_token = last_token = time.monotonic()
                        yield delta
                return
            except EngineError as error:
                log.warning("engine_failed", url=replica.engine.url, started=started, error=error.message)
                if error.gone or (error.late and replica.last_token <= last_token):  # no other stream had any
                    await replica.mark_down(error)
                elif error.status == UNKNOWN_ADAPTER:
                    replica.forget(adapter)
                if started:
                    raise
            finally:
                replica.streams -= parameters["n"]
        raise Unavailable("No engine can answer now; try again soon.", retry_after=2)

    async def forward(self, path: str, body: dict[str, Any]) -> AsyncGenerator[bytes]:
        """Yields the answer to a request that passes through, from the least loaded replica that serves
        `path`, and the adapter that `body` names as its model.

        Raises NotFound where no engine serves the path, Unavailable where none can now, EngineError when one
        failed, and InvalidRequest when it refuses the request. Closing the iterator ends the request."""
        serving = [replica for replica in self.in_rotation if path in replica.description.paths]
        if self.in_rotation and not serving:
            name = self.in_rotation[0].description.name
            raise NotFound(f"{name} does not serve {path} here.", code="not_found")
        adapter = body.get("model")
        able = [replica for replica in serving if adapter is None or adapter in replica.verified]
        if not able:
            raise Unavailable("No engine can answer now; try again soon.", retry_after=2)
        replica = min(able, key=lambda replica: replica.streams)
        replica.streams += 1
        try:
            async with aclosing(replica.engine.forward(path, body)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            replica.streams -= 1

    async def health_check(self) -> None:
        """Discovers the engines and checks each. An engine whose address is gone is dropped when it no longer
        answers either, and its last reply has ended."""
        urls = await self._resolve()
        known = {replica.engine.url for replica in self.replicas}
        new = [url for url in urls if url not in known]
        self.replicas += [Replica(EngineClient(url, self._timeout, self._key), self._replaced) for url in new]
        await asyncio.gather(*(replica.health_check() for replica in self.replicas))
        for replica in self.replicas.copy():
            if replica.engine.url not in urls and not replica.healthy and not replica.streams:
                self.replicas.remove(replica)
                await replica.engine.close()

    async def verify(self, adapter: str, directory: Path, probe: Probe, tolerance: float) -> None:
        """Loads and verifies `adapter` on the replicas that are to hold it. A replica that fails is out of
        rotation when another passes. When all fail, raises the first failure, an EngineError before a
        PolicyRejected; raises EngineError, too, when there is no engine.

        An adapter that no replica serves is tried on one alone, which has been up for longest, and on no
        other while that one is down: it may have been ended by it. A replica that is out of rotation is
        verified in the background while another serves."""
        lacking = self.lacking(adapter)
        asked = [replica for replica in lacking if not (replica.failed and self.in_rotation)]
        for replica in lacking:
            if replica not in asked and replica not in self._verifying:
                work = self._verify_later(replica, adapter, directory, probe, tolerance)
                self._verifying[replica] = asyncio.create_task(work)
        asked.sort(key=lambda replica: replica.up_since)
        alone = 0 if adapter == BASE or self.serves(adapter) else 1
        failures: list[tuple[Replica, BaseException]] = []
        for some in (asked[:alone], asked[alone:]):
            results = await asyncio.gather(
                *(replica.verify(adapter, directory, probe, tolerance) for replica in some),
                return_exceptions=True,
            )
            failures += [
                (replica, result) for replica, result in zip(some, results, strict=True) if result is not None
            ]
            if not all(replica.healthy for replica, _ in failures):
                break
        if any(adapter in replica.verified for replica in self.healthy):
            for replica, failure in failures:
                if replica.healthy and adapter not in replica.failed:
                    replica.failed.add(adapter)
                    log.error("engine_out_of_rotation", url=replica.engine.url, error=str(failure))
            return
        for _, failure in sorted(failures, key=lambda found: isinstance(found[1], PolicyRejected)):
            raise failure
        if not self.healthy:
            raise EngineError(f"there is no healthy engine to load {adapter} on", url=", ".join(self._urls))

    async def keep_if(self, adapter: str, check: Callable[[], None]) -> None:
        """Calls `check` in another thread; if it raises, no replica keeps `adapter`, and the error is
        raised."""
        try:
            await asyncio.to_thread(check)
        except PolicyRejected:
            for replica in self.healthy:
                with suppress(EngineError):
                    await replica.unload(adapter)
            raise

    async def unload_unused(self) -> None:
        """Unloads the adapters that are not required, and those that other replicas are to hold and do, once
        no request uses them and _UNLOAD_DELAY after they were last needed."""
        now = time.monotonic()
        for replica in self.healthy:
            needed = {adapter for adapter in replica.loaded if self._needs(replica, adapter)}
            replica.failed = {adapter for adapter in replica.failed if self._needs(replica, adapter)}
            replica.unused_since = {
                adapter: replica.unused_since.get(adapter, now) for adapter in replica.loaded - needed
            }
            for adapter, since in sorted(replica.unused_since.items()):
                if now - since >= _UNLOAD_DELAY and not self._in_use[adapter]:
                    try:
                        await replica.unload(adapter)
                    except EngineError as error:
                        log.warning(
                            "unload_failed", url=replica.engine.url, adapter=adapter, error=error.message
                        )
                        break

    def _needs(self, replica: Replica, adapter: str) -> bool:
        return adapter in self._required and (
            replica in self.assigned(adapter) or not self.serves_everywhere(adapter)
        )

    async def close(self) -> None:
        for task in filter(None, [self._resolving, *self._verifying.values()]):
            task.cancel()
        await asyncio.gather(*(replica.engine.close() for replica in self.replicas))

    async def _verify_later(
        self, replica: Replica, adapter: str, directory: Path, probe: Probe, tolerance: float
    ) -> None:
        try:
            with suppress(EngineError, PolicyRejected):  # it stays out of rotation, and is verified again
                await replica.verify(adapter, directory, probe, tolerance)
        finally:
            del self._verifying[replica]

    async def _resolve(self) -> list[str]:
        """Returns the engines' addresses; those found before while name resolution hangs."""
        self._resolving = self._resolving or asyncio.create_task(resolve(self._urls))
        await asyncio.wait({self._resolving}, timeout=_RESOLVE_TIMEOUT)
        if self._resolving.done():
            found, self._resolving = self._resolving, None
            self._addresses = found.result()
        return self._addresses
