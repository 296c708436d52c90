"""The scheduler runs continuous batching in the one thread that uses the model: each step decodes one token
for every policy's batch. Whatever changes the model goes through the thread's inbox, so there are no locks.

Any number of adapters may be loaded. The weights of those that were used last are in memory; the others' are
read again from their files when a request needs them (an LRU cache, as vLLM has it). An unloaded adapter
answers no new request, and its weights are freed when its last reply has ended. Each load gets a slot of its
own, so a name that is loaded again shares nothing with its former adapter.
"""

import asyncio
import itertools
import logging
import queue
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from torch import Tensor

from schemas.errors import NotFound
from schemas.policies import CONFIG, WEIGHTS, file_digest
from serving.embedded.batch import Batch
from serving.embedded.lora import AdapterError
from serving.embedded.model import Model
from serving.embedded.sequence import Sequence, Token
from serving.embedded.taste_scores import TasteRequest, TasteScores

P = ParamSpec("P")
T = TypeVar("T")
_MAX_PREFILL_TOKENS = 4_096  # padded tokens of one prefill, so that long prompts do not stall running replies
_log = logging.getLogger(__name__)

Event = Token | Exception


@dataclass(frozen=True, slots=True)
class Adapter:
    """A loaded adapter; `digest` is of its files, which must not change."""

    slot: str
    directory: Path
    digest: str


@dataclass(slots=True, eq=False)
class _Request:
    """A reply that waits or runs, with its adapter and the queue of its tokens."""

    adapter: Adapter
    sequence: Sequence
    events: asyncio.Queue[Event]


class Scheduler:
    """Continuous batching over several policies. `max_sequences` replies run at once; the others wait, first
    come, first served within a policy. `max_adapters` have their weights in memory, or all that running
    replies use, if these are more."""

    def __init__(self, model: Model, *, max_sequences: int, max_adapters: int) -> None:
        self._model = model
        self._max_sequences = max_sequences
        self._max_adapters = max_adapters
        self._tastes = TasteScores(model)
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._waiting: deque[_Request] = deque()
        self._running: dict[Sequence, _Request] = {}
        self._batches: dict[str, Batch] = {}
        self._unloaded: set[str] = set()  # slots whose last replies are running
        self._resident: dict[str, None] = {}  # slots with weights in memory, the least recently used first
        self._slot_numbers = itertools.count()
        self._stopping = False
        self.adapters: dict[str, Adapter] = {}

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        self._inbox.put(partial(setattr, self, "_stopping", True))
        self._thread.join()

    async def load(self, policy: str, directory: Path) -> None:
        """Loads an adapter. Raises AdapterError, and then nothing has changed."""
        await asyncio.wrap_future(self._between_steps(self._load, policy, directory))

    async def unload(self, policy: str) -> None:
        """Unloads an adapter. Raises NotFound."""
        await asyncio.wrap_future(self._between_steps(self._unload, policy))

    async def logprobs(self, policy: str, tokens: list[int]) -> Tensor:
        """Returns the log-probabilities of a prompt, (T − 1, V). Raises NotFound."""
        return await asyncio.wrap_future(self._between_steps(self._logprobs, policy, tokens))

    async def taste_scores(self, request: TasteRequest) -> dict[str, object]:
        """Returns the values of replies by a taste model. Raises InvalidRequest."""
        return await asyncio.wrap_future(self._between_steps(self._tastes.score, request))

    async def generate(self, policy: str, sequences: list[Sequence]) -> AsyncIterator[list[Token]]:
        """Yields the tokens of these replies as they are sampled; closing the iterator ends them. Raises
        NotFound."""
        events: asyncio.Queue[Event] = asyncio.Queue()
        self._inbox.put(partial(self._enqueue, policy, sequences, events))
        unfinished = len(sequences)
        try:
            while unfinished:
                tokens: list[Token] = []
                while not tokens or not events.empty():
                    event = await events.get()
                    if isinstance(event, Exception):
                        raise event
                    tokens.append(event)
                    unfinished -= event.finish_reason is not None
                yield tokens
        finally:
            for sequence in sequences:
                sequence.done = True

    # The methods below run in the scheduler's thread.

    def _run(self) -> None:
        while not self._stopping:
            busy = bool(self._waiting or self._batches)
            while not (busy and self._inbox.empty()):
                self._inbox.get()()
                busy = True
            self._admit()
            for slot, batch in list(self._batches.items()):
                self._run_step(slot, batch.decode)
                if not batch.rows:
                    self._batches.pop(slot, None)
            self._running = {
                sequence: request for sequence, request in self._running.items() if not sequence.done
            }
            self._free_unloaded()

    def _admit(self) -> None:
        """Prefills the prompts of the policy that has waited longest, within the limits."""
        self._waiting = deque(request for request in self._waiting if not request.sequence.done)
        if not self._waiting:
            return
        adapter = self._waiting[0].adapter
        free = self._max_sequences - len(self._running)
        chosen: list[_Request] = []
        width = 0
        for request in self._waiting:
            if request.adapter is not adapter:
                continue
            width = max(width, len(request.sequence.prompt))
            if len(chosen) >= free or (chosen and width * (len(chosen) + 1) > _MAX_PREFILL_TOKENS):
                break
            chosen.append(request)
        if not chosen:
            return
        self._waiting = deque(request for request in self._waiting if request not in chosen)
        try:
            self._ensure_resident(adapter)
        except NotFound as error:
            for request in chosen:
                request.sequence.done = True
            self._send([(request.events, error) for request in chosen])
            return
        self._running |= {request.sequence: request for request in chosen}
        batch = self._batches.setdefault(adapter.slot, Batch(self._model, adapter.slot))
        self._run_step(adapter.slot, partial(batch.prefill, [request.sequence for request in chosen]))

    def _run_step(self, slot: str, step: Callable[[], list[tuple[Sequence, Token]]]) -> None:
        """Runs one step of a batch and sends its tokens. If it fails, the batch is dropped and its replies
        end with the error; other batches continue."""
        deliveries: list[tuple[asyncio.Queue[Event], Event]]
        try:
            deliveries = [(self._running[sequence].events, token) for sequence, token in step()]
        except Exception as error:
            _log.exception("step_failed")
            failed = [request for request in self._running.values() if request.adapter.slot == slot]
            for request in failed:
                request.sequence.done = True
            del self._batches[slot]
            deliveries = [(request.events, error) for request in failed]
        self._send(deliveries)

    def _send(self, deliveries: list[tuple[asyncio.Queue[Event], Event]]) -> None:
        self._loop.call_soon_threadsafe(_put_all, deliveries)

    def _enqueue(self, policy: str, sequences: list[Sequence], events: asyncio.Queue[Event]) -> None:
        try:
            adapter = self._find(policy)
        except NotFound as error:
            self._send([(events, error)])
        else:
            self._waiting.extend(_Request(adapter, sequence, events) for sequence in sequences)

    def _load(self, policy: str, directory: Path) -> None:
        if policy in self.adapters:
            raise AdapterError(f"'{policy}' has already been loaded")
        adapter = Adapter(f"slot{next(self._slot_numbers)}", directory, _digest(directory))
        self._model.load_adapter(adapter.slot, directory)
        self.adapters[policy] = adapter
        self._resident[adapter.slot] = None
        self._evict(adapter)

    def _unload(self, policy: str) -> None:
        self._unloaded.add(self._find(policy).slot)
        del self.adapters[policy]

    def _logprobs(self, policy: str, tokens: list[int]) -> Tensor:
        adapter = self._find(policy)
        self._ensure_resident(adapter)
        return self._model.logprobs(adapter.slot, tokens)

    def _ensure_resident(self, adapter: Adapter) -> None:
        """Reads the weights of an adapter again if they are not in memory. Raises NotFound where its files
        are gone or changed; then it is unloaded."""
        if adapter.slot in self._resident:
            del self._resident[adapter.slot]
        else:
            try:
                if _digest(adapter.directory) != adapter.digest:
                    raise AdapterError(f"{adapter.directory} is not what was loaded")
                self._model.load_adapter(adapter.slot, adapter.directory)
            except AdapterError as error:
                _log.error("adapter_lost: %s", error)
                self.adapters = {name: found for name, found in self.adapters.items() if found is not adapter}
                raise NotFound(str(error), code="model_not_found", param="model") from error
        self._resident[adapter.slot] = None  # as the most recently used
        self._evict(adapter)

    def _evict(self, newest: Adapter) -> None:
        """Frees the least recently used weights beyond `max_adapters`, but for those in use."""
        used = {newest.slot, *(request.adapter.slot for request in self._running.values())}
        spare = [slot for slot in self._resident if slot not in used]
        for slot in spare[: max(0, len(self._resident) - self._max_adapters)]:
            self._model.unload_adapter(slot)
            del self._resident[slot]

    def _find(self, policy: str) -> Adapter:
        if policy not in self.adapters:
            raise NotFound(f"The model '{policy}' does not exist.", code="model_not_found", param="model")
        return self.adapters[policy]

    def _free_unloaded(self) -> None:
        used = {request.adapter.slot for request in (*self._waiting, *self._running.values())}
        for slot in self._unloaded - used:
            self._model.unload_adapter(slot)
            self._resident.pop(slot, None)
            self._unloaded.remove(slot)

    def _between_steps(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Runs `function` in the thread before its next step; returns the future of its result."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function(*args, **kwargs))
            except Exception as error:
                future.set_exception(error)

        self._inbox.put(run)
        return future


def _digest(directory: Path) -> str:
    """Returns one digest of the files that an adapter is read from. Raises AdapterError."""
    try:
        return "".join(file_digest(directory / name) for name in (CONFIG, WEIGHTS))
    except OSError as error:
        raise AdapterError(f"{directory} cannot be read: {error}") from error


def _put_all(deliveries: list[tuple[asyncio.Queue[Event], Event]]) -> None:
    for events, event in deliveries:
        events.put_nowait(event)
