"""A shared result coalesces equal requests: it is computed once for all that wait for it (single flight)."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedResult(Generic[T]):
    """The result of `compute`, at most `seconds` old. However many ask, one computation runs at a time; its
    error is everybody's who waited for it."""

    def __init__(self, compute: Callable[[], Awaitable[T]], *, seconds: float = 0.0) -> None:
        self._compute = compute
        self._seconds = seconds
        self._began = 0.0
        self._task: asyncio.Future[T] | None = None

    async def get(self) -> T:
        """Returns the result. Raises what `compute` raises."""
        if self._task is None or (self._task.done() and time.monotonic() - self._began >= self._seconds):
            self._began = time.monotonic()
            self._task = asyncio.ensure_future(self._compute())
        return await asyncio.shield(self._task)
