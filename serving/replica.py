"""A replica is one engine behind the fleet: its health, its loaded adapters, and those verified on it."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import structlog

from schemas.errors import EngineError, PolicyRejected, Reason
from schemas.policies import TRAINING, Probe
from serving.adapter_check import ProbePositions, mean_difference, select_positions, verify_adapter
from serving.engine import EngineClient, EngineDescription

log = structlog.get_logger()

_HEALTH_TIMEOUT = 3.0  # seconds to answer a health check, or with one token
_MAX_FAILURES = 2  # failed health checks in a row that mark an engine down
_ASK_INTERVAL = 5.0  # seconds after which an engine that sends tokens is asked all the same
_VERIFY_TIMEOUT = 30.0  # seconds to load an adapter and answer its probe; vLLM may compile for 18 first

UNKNOWN_ADAPTER = 404
"""An engine's status for an adapter that it does not have."""
_ANY_TOKENS = [1, 1]  # every vocabulary has them


class Replica:
    """One engine. `loaded` are its adapters, `verified` those that may answer requests, `failed` those that
    did not pass here and did on another replica, `unused_since` those that it need not hold.
    `description` is what the engine says of itself. `last_token` is when a token last came, `up_since` when
    the engine came up (time.monotonic). `replaced` is called for each adapter that is found to be
    replaced."""

    def __init__(self, engine: EngineClient, replaced: Callable[[], None] = lambda: None) -> None:
        self.engine = engine
        self.description = EngineDescription()
        self.healthy = False
        self.streams = 0
        self.last_token = self.up_since = 0.0
        self.loaded: set[str] = set()
        self.verified: set[str] = set()
        self.failed: set[str] = set()
        self.unused_since: dict[str, float] = {}
        self._folders: dict[str, str] = {}
        self._described = False
        self._failures = 0
        self._changes = 0
        self._replaced = replaced
        self._checked = self._asked = 0.0  # time.monotonic

    @property
    def in_rotation(self) -> bool:
        return self.healthy and not self.failed

    async def health_check(self) -> bool:
        """Returns whether the engine is healthy. Tokens since the last check say so; else it is asked."""
        now, checked = time.monotonic(), self._checked
        self._checked = now
        if self.healthy and self.last_token > checked and now - self._asked < _ASK_INTERVAL:
            return True
        return await self._ask()

    async def _ask(self) -> bool:
        """Asks the engine for its health and its adapters; returns whether it answered.

        A refused connection marks it down at once, so an engine that restarts between two checks is never
        taken for the one before. Otherwise _MAX_FAILURES in a row without a token do.
        """
        started, changes = time.monotonic(), self._changes
        self._asked = started
        try:
            folders = await self._fetch_folders()
        except EngineError as error:
            self._failures = 0 if self.last_token >= started else self._failures + 1
            if error.gone or self._failures >= _MAX_FAILURES:
                await self.mark_down(error)
            return False
        if not self.healthy:
            log.info("engine_up", url=self.engine.url, adapters=len(folders))
            self.up_since = time.monotonic()
            self._described = False
        self._failures = 0
        self.healthy = True
        if changes == self._changes:  # else the list may be older than a load or unload of ours
            self.loaded = {adapter for adapter in folders if not adapter.startswith(TRAINING)}
            self.verified &= self.loaded
            await self._unload_strangers(folders)
        if not self._described:
            await self._describe()
        return True

    async def mark_down(self, error: EngineError) -> None:
        """Takes the engine out of rotation until it is healthy and all is verified again. Its running
        requests raise EngineError; but an engine that only refuses new connections may finish its replies."""
        if not self.healthy:
            return
        log.error("engine_down", url=self.engine.url, error=error.message)
        self.healthy = False
        self.loaded.clear()
        self.verified.clear()
        self.failed.clear()
        self._folders.clear()
        if not error.gone:
            await self.engine.close()

    async def verify(self, adapter: str, directory: Path, probe: Probe, tolerance: float) -> None:
        """Loads `adapter` unless it is loaded, and checks its probe. `directory` is absolute.

        Raises PolicyRejected (`load`, `probe`, `engine_error`, `timeout`, `engine_down`) when the adapter is
        at fault, EngineError when the engine is, also for its being too slow.
        """
        able, up_since = await self._answers_for_another(adapter), self.up_since
        try:
            async with self._within(_VERIFY_TIMEOUT, f"load and verify {adapter}"):
                await self._load(adapter, directory)
                await self._check_probe(adapter, probe, tolerance)
        except EngineError as error:
            fault = await self._fault(adapter, error, up_since) if able else None
            if fault is None:
                raise
            raise PolicyRejected(f"{adapter}: {error.message}", policy=adapter, reason=fault) from None
        self.verified.add(adapter)
        if adapter in self.failed:
            self.failed.discard(adapter)
            log.info("engine_in_rotation", url=self.engine.url, adapter=adapter, failing=len(self.failed))

    def forget(self, adapter: str) -> None:
        """Takes note that the engine does not have `adapter`: it lost its files, or another process unloaded
        it."""
        self._changes += 1
        self.loaded.discard(adapter)
        self.verified.discard(adapter)
        self._folders.pop(adapter, None)

    async def unload(self, adapter: str) -> None:
        self.verified.discard(adapter)
        if adapter in self.loaded:
            await self.engine.unload(adapter)
            self._changes += 1
            self.loaded.discard(adapter)
            self._folders.pop(adapter, None)

    async def _describe(self) -> None:
        """Asks the engine what its requests may have. It is healthy even if it does not say so."""
        with suppress(EngineError, TimeoutError):
            async with asyncio.timeout(_HEALTH_TIMEOUT):
                self.description = await self.engine.describe()
            self._described = True

    async def _unload_strangers(self, folders: dict[str, str]) -> None:
        """Unloads what was loaded from another folder under the name of an adapter that is verified here."""
        for adapter in sorted(self.verified):
            own, now = self._folders.get(adapter), folders.get(adapter)
            if own and now and own != now:
                log.critical("adapter_replaced", url=self.engine.url, adapter=adapter, folder=now)
                self._replaced()
                with suppress(EngineError):
                    await self.unload(adapter)

    async def _fetch_folders(self) -> dict[str, str]:
        """Returns the adapters of a healthy engine with their folders. Raises EngineError."""
        async with self._within(_HEALTH_TIMEOUT, "answer a health check"):
            await self.engine.check_health()
            return await self.engine.folders()

    @asynccontextmanager
    async def _within(self, seconds: float, what: str) -> AsyncGenerator[None]:
        """Raises EngineError (`late`) where the engine does not do something in time."""
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            message = f"{self.engine.url} did not {what} in {seconds:.0f} s"
            raise EngineError(message, url=self.engine.url, late=True) from None

    async def _load(self, adapter: str, directory: Path) -> None:
        if adapter in self.loaded:
            return
        try:
            await self.engine.load(adapter, directory)
        except EngineError as error:
            answers = await self._ask()
            if adapter not in self.loaded:  # another process may have loaded it meanwhile
                if error.status is None or not answers:
                    raise
                raise PolicyRejected(f"{adapter}: {error.message}", policy=adapter, reason="load") from None
        self._changes += 1
        self.loaded.add(adapter)
        self._folders[adapter] = str(directory)

    async def answers_as(self, adapter: str, probe: Probe, tolerance: float) -> bool:
        """Returns whether the engine's log-probabilities under `adapter` are its own. Raises EngineError."""
        async with self._within(_VERIFY_TIMEOUT, f"answer as {adapter}"):
            selected, measured = await self._measure(adapter, probe)
        return verify_adapter(selected, measured, tolerance)

    async def _measure(self, adapter: str, probe: Probe) -> tuple[ProbePositions, list[float]]:
        selected = select_positions(probe)
        measured = await self.engine.probe(adapter, probe.token_ids, selected.positions)
        self.last_token = time.monotonic()
        return selected, measured

    async def _check_probe(self, adapter: str, probe: Probe, tolerance: float) -> None:
        selected, measured = await self._measure(adapter, probe)
        if not verify_adapter(selected, measured, tolerance):
            raise PolicyRejected(
                f"{adapter}: the log-probabilities of {self.engine.url} differ from the manifest's by "
                f"{mean_difference(measured, selected.logprobs):.3f} nats a token, and from the base's by "
                f"{mean_difference(measured, selected.base_logprobs):.3f}",
                policy=adapter,
                reason="probe",
            )

    async def _fault(self, adapter: str, error: EngineError, up_since: float) -> Reason | None:
        """Returns why `adapter` is at fault for the `error` of an engine that is up since `up_since`, and
        answered for another adapter directly before: it does so still, or is down. None otherwise."""
        if error.status == UNKNOWN_ADAPTER:  # another process may have unloaded it
            return None
        if await self._answers_for_another(adapter):
            return "timeout" if error.late else "engine_error"
        for _ in range(_MAX_FAILURES):
            if not self.healthy or await self._ask():
                break
        return None if self.healthy and self.up_since == up_since else "engine_down"

    async def _answers_for_another(self, adapter: str) -> bool:
        """Returns whether the engine generates a token in time with an adapter that is verified on it."""
        others = self.verified - {adapter}
        if not others:
            return False
        try:
            async with asyncio.timeout(_HEALTH_TIMEOUT):
                await self.engine.probe(min(others), _ANY_TOKENS, [1])
        except (EngineError, TimeoutError):
            return False
        self.last_token = time.monotonic()
        return True
