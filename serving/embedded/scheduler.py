"""The scheduler runs continuous batching in the one thread that uses the model: each step decodes one token
for every policy's batch. Whatever changes the model goes through the thread's inbox, so there are no locks.

An unloaded adapter answers no new request, and its weights are freed when its last reply has ended. Each load
gets a slot of its own, so a name that is loaded again shares nothing with its former adapter.
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
from serving.embedded.batch import Batch
from serving.embedded.lora import AdapterError
from serving.embedded.model import Model
from serving.embedded.sequence import Sequence, Token

P = ParamSpec("P")
T = TypeVar("T")
_MAX_PREFILL_TOKENS = 4_096  # padded tokens of one prefill, so that long prompts do not stall running replies
_log = logging.getLogger(__name__)

Event = Token | Exception


@dataclass(frozen=True, slots=True)
class Adapter:
    slot: str
    directory: Path


@dataclass(slots=True, eq=False)
class _Request:
    """A reply that waits or runs, with its adapter's slot and the queue of its tokens."""

    slot: str
    sequence: Sequence
    events: asyncio.Queue[Event]


class Scheduler:
    """Continuous batching over several policies. `max_sequences` replies run at once; the others wait, first
    come, first served within a policy."""

    def __init__(self, model: Model, *, max_sequences: int, max_adapters: int) -> None:
        self._model = model
        self._max_sequences = max_sequences
        self._max_adapters = max_adapters
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._waiting: deque[_Request] = deque()
        self._running: dict[Sequence, _Request] = {}
        self._batches: dict[str, Batch] = {}
        self._unloaded: set[str] = set()  # slots whose last replies are running
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
        slot = self._waiting[0].slot
        free = self._max_sequences - len(self._running)
        chosen: list[_Request] = []
        width = 0
        for request in self._waiting:
            if request.slot != slot:
                continue
            width = max(width, len(request.sequence.prompt))
            if len(chosen) >= free or (chosen and width * (len(chosen) + 1) > _MAX_PREFILL_TOKENS):
                break
            chosen.append(request)
        if not chosen:
            return
        self._waiting = deque(request for request in self._waiting if request not in chosen)
        self._running |= {request.sequence: request for request in chosen}
        batch = self._batches.setdefault(slot, Batch(self._model, slot))
        self._run_step(slot, partial(batch.prefill, [request.sequence for request in chosen]))

    def _run_step(self, slot: str, step: Callable[[], list[tuple[Sequence, Token]]]) -> None:
        """Runs one step of a batch and sends its tokens. If it fails, the batch is dropped and its replies
        end with the error; other batches continue."""
        deliveries: list[tuple[asyncio.Queue[Event], Event]]
        try:
            deliveries = [(self._running[sequence].events, token) for sequence, token in step()]
        except Exception as error:
            _log.exception("step_failed")
            failed = [request for request in self._running.values() if request.slot == slot]
            for request in failed:
                request.sequence.done = True
            del self._batches[slot]
            deliveries = [(request.events, error) for request in failed]
        self._send(deliveries)

    def _send(self, deliveries: list[tuple[asyncio.Queue[Event], Event]]) -> None:
        self._loop.call_soon_threadsafe(_put_all, deliveries)

    def _enqueue(self, policy: str, sequences: list[Sequence], events: asyncio.Queue[Event]) -> None:
        try:
            slot = self._find(policy).slot
        except NotFound as error:
            self._send([(events, error)])
        else:
            self._waiting.extend(_Request(slot, sequence, events) for sequence in sequences)

    def _load(self, policy: str, directory: Path) -> None:
        if policy in self.adapters:
            raise AdapterError(f"'{policy}' has already been loaded")
        if len(self.adapters) >= self._max_adapters:
            raise AdapterError(f"all {self._max_adapters} adapter slots are in use; unload an adapter first")
        slot = f"slot{next(self._slot_numbers)}"
        self._model.load_adapter(slot, directory)
        self.adapters[policy] = Adapter(slot, directory)

    def _unload(self, policy: str) -> None:
        self._unloaded.add(self._find(policy).slot)
        del self.adapters[policy]

    def _logprobs(self, policy: str, tokens: list[int]) -> Tensor:
        return self._model.logprobs(self._find(policy).slot, tokens)

    def _find(self, policy: str) -> Adapter:
        if policy not in self.adapters:
            raise NotFound(f"The model '{policy}' does not exist.", code="model_not_found", param="model")
        return self.adapters[policy]

    def _free_unloaded(self) -> None:
        used = {request.slot for request in (*self._waiting, *self._running.values())}
        for slot in self._unloaded - used:
            self._model.unload_adapter(slot)
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


def _put_all(deliveries: list[tuple[asyncio.Queue[Event], Event]]) -> None:
    for events, event in deliveries:
        events.put_nowait(event)
