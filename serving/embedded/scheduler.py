"""The one thread that touches the model: it takes orders between steps, and every step moves each policy's
batch by one token. Everything that changes the model goes through its inbox, so there are no locks.

An adapter that was unloaded answers no new request, and its weights go when its last reply has ended. Each
load gets a slot of its own, so a name that returns never meets what its former owner left behind.
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
from serving.embedded.model import AdapterError, Model
from serving.embedded.sequence import Sequence, Token

P = ParamSpec("P")
T = TypeVar("T")
_PROMPT_TOKENS = 4_096  # padded tokens read at once, so that long prompts do not hold up running replies
_log = logging.getLogger(__name__)

Event = Token | Exception


@dataclass(frozen=True, slots=True)
class Adapter:
    slot: str
    directory: Path


@dataclass(slots=True, eq=False)
class _Order:
    """A reply that waits or runs: whose it is and by which adapter."""

    slot: str
    sequence: Sequence
    events: asyncio.Queue[Event]


class Scheduler:
    """Continuous batching over several policies. `max_sequences` replies run at once; the others wait in
    line, first come, first served among those of one policy."""

    def __init__(self, model: Model, *, max_sequences: int, max_adapters: int) -> None:
        self._model = model
        self._max_sequences = max_sequences
        self._max_adapters = max_adapters
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._waiting: deque[_Order] = deque()
        self._running: dict[Sequence, _Order] = {}
        self._batches: dict[str, Batch] = {}
        self._retired: set[str] = set()
        self._numbers = itertools.count()
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
        """Raises AdapterError, and then nothing has changed."""
        await asyncio.wrap_future(self._between_steps(self._load, policy, directory))

    async def unload(self, policy: str) -> None:
        """Raises NotFound."""
        await asyncio.wrap_future(self._between_steps(self._unload, policy))

    async def read(self, policy: str, tokens: list[int]) -> Tensor:
        """Prompt log-probabilities, (T − 1, V). Raises NotFound."""
        return await asyncio.wrap_future(self._between_steps(self._read, policy, tokens))

    async def generate(self, policy: str, sequences: list[Sequence]) -> AsyncIterator[list[Token]]:
        """What became of these replies, as it happens; closing the iterator ends them. Raises NotFound."""
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

    # What follows runs in the thread.

    def _run(self) -> None:
        while not self._stopping:
            busy = bool(self._waiting or self._batches)
            while not (busy and self._inbox.empty()):
                self._inbox.get()()
                busy = True
            self._admit()
            for slot, batch in list(self._batches.items()):
                self._deliver(slot, batch.step)
                if not batch.rows:
                    self._batches.pop(slot, None)
            self._running = {
                sequence: order for sequence, order in self._running.items() if not sequence.done
            }
            self._drop_retired()

    def _admit(self) -> None:
        """Read the prompts of the policy that is first in line, as many as there is room for."""
        self._waiting = deque(order for order in self._waiting if not order.sequence.done)
        if not self._waiting:
            return
        slot = self._waiting[0].slot
        free = self._max_sequences - len(self._running)
        chosen: list[_Order] = []
        width = 0
        for order in self._waiting:
            if order.slot != slot:
                continue
            width = max(width, len(order.sequence.prompt))
            if len(chosen) >= free or (chosen and width * (len(chosen) + 1) > _PROMPT_TOKENS):
                break
            chosen.append(order)
        if not chosen:
            return
        self._waiting = deque(order for order in self._waiting if order not in chosen)
        self._running |= {order.sequence: order for order in chosen}
        batch = self._batches.setdefault(slot, Batch(self._model, slot))
        self._deliver(slot, partial(batch.join, [order.sequence for order in chosen]))

    def _deliver(self, slot: str, work: Callable[[], list[tuple[Sequence, Token]]]) -> None:
        """Do one step's work and hand out what it brought. If it fails, the batch is lost and its replies
        end with the error; the others go on."""
        news: list[tuple[asyncio.Queue[Event], Event]]
        try:
            news = [(self._running[sequence].events, token) for sequence, token in work()]
        except Exception as error:
            _log.exception("a step failed")
            lost = [order for order in self._running.values() if order.slot == slot]
            for order in lost:
                order.sequence.done = True
            del self._batches[slot]
            news = [(order.events, error) for order in lost]
        self._post(news)

    def _post(self, news: list[tuple[asyncio.Queue[Event], Event]]) -> None:
        self._loop.call_soon_threadsafe(_put_all, news)

    def _enqueue(self, policy: str, sequences: list[Sequence], events: asyncio.Queue[Event]) -> None:
        try:
            slot = self._find(policy).slot
        except NotFound as error:
            self._post([(events, error)])
        else:
            self._waiting.extend(_Order(slot, sequence, events) for sequence in sequences)

    def _load(self, policy: str, directory: Path) -> None:
        if policy in self.adapters:
            raise AdapterError(f"'{policy}' has already been loaded")
        if len(self.adapters) >= self._max_adapters:
            raise AdapterError(f"{self._max_adapters} adapters are loaded, and no more fit; unload one first")
        slot = f"slot{next(self._numbers)}"
        self._model.add(slot, directory)
        self.adapters[policy] = Adapter(slot, directory)

    def _unload(self, policy: str) -> None:
        self._retired.add(self._find(policy).slot)
        del self.adapters[policy]

    def _read(self, policy: str, tokens: list[int]) -> Tensor:
        return self._model.read(self._find(policy).slot, tokens)

    def _find(self, policy: str) -> Adapter:
        if policy not in self.adapters:
            raise NotFound(f"The model '{policy}' does not exist.", code="model_not_found", param="model")
        return self.adapters[policy]

    def _drop_retired(self) -> None:
        used = {order.slot for order in (*self._waiting, *self._running.values())}
        for slot in self._retired - used:
            self._model.remove(slot)
            self._retired.remove(slot)

    def _between_steps(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function(*args, **kwargs))
            except Exception as error:
                future.set_exception(error)

        self._inbox.put(run)
        return future


def _put_all(news: list[tuple[asyncio.Queue[Event], Event]]) -> None:
    for events, event in news:
        events.put_nowait(event)
