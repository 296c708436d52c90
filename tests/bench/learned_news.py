"""How long news of what was learned holds the event loop: `python -m tests.bench.learned_news`.

A hub over this machine's Postgres, 5,000 sockets with their queues and encoders, and a policy that learned
from 20,000 votes of 5,000 people, each of whom has one socket. It prints the longest wait of a task that only
wants its turn, and how long a plain loop over a tenth of the sockets and a tenth of the votes would hold all
others up. Promised: 50 ms.
"""

import asyncio
import json
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deploy.local.postgres import EmbeddedPostgres
from feedback.store import Store
from schemas.database import migrate, open_async_pool
from serving.hub import Hub
from serving.keys import Caller

SOCKETS, VOTES = 5_000, 20_000
_FILL = """
insert into training_examples
    (event_id, project, feedback_id, turn_id, choice, type, value, rater, conversation_id, created_at,
    first_policy)
select 'ev_' || n, 'default', 'fb_' || n, 'chatcmpl-' || n, 0, 'thumb', '{"value": "up"}',
    'u_' || n %% %s, 'c', now(), 'p1'
from generate_series(1, %s) as n
"""


class Socket:
    """A websocket whose client reads: its frames are encoded and gone."""

    busy = False

    def __init__(self, rater: str) -> None:
        self.caller = Caller("key", "default", "publishable")
        self.votes: set[str] = set()
        self.raters = {rater}
        self.sent = 0
        self._frames: asyncio.Queue[dict[str, Any]] = asyncio.Queue(256)
        self._writing = asyncio.create_task(self._write())

    def notify(self, frame: dict[str, Any]) -> None:
        if not self._frames.full():
            self._frames.put_nowait(frame)

    async def _write(self) -> None:
        while True:
            json.dumps(await self._frames.get(), ensure_ascii=False, separators=(",", ":"))
            self.sent += 1


async def longest_wait(work: Any) -> tuple[float, float]:
    """Returns the longest wait for the event loop while `work` runs, and how long it ran, seconds."""
    longest = 0.0

    async def wait() -> None:
        nonlocal longest
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - began)

    waiting, began = asyncio.create_task(wait()), time.perf_counter()
    await work
    waiting.cancel()
    return longest, time.perf_counter() - began


def plain_loop(votes: int, sockets: list[Socket]) -> float:
    """Returns how long it takes to ask each socket about each vote, seconds."""
    began = time.perf_counter()
    for number in range(votes):
        for socket in sockets:
            if f"fb_{number}" in socket.votes or f"u_{number}" in socket.raters:
                socket.notify({})
    return time.perf_counter() - began


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        postgres = EmbeddedPostgres(Path(directory) / "postgres")
        url = postgres.start()
        try:
            migrate(url)
            async with open_async_pool(url) as pool:
                async with pool.connection() as connection:
                    await connection.execute(_FILL, [SOCKETS, VOTES])
                sockets = [Socket(f"u_{number}") for number in range(SOCKETS)]
                hub = Hub(pool, Store(pool))
                hub._subscribers.update(sockets)
                found = []
                for _ in range(5):
                    found.append(await longest_wait(hub._announce_policy("default", "p1", datetime.now(UTC))))
                alone = plain_loop(VOTES // 10, sockets[: SOCKETS // 10])
                await asyncio.sleep(0.1)
                assert sum(socket.sent for socket in sockets) >= 5 * VOTES  # each vote to its person's socket
        finally:
            postgres.stop()
    waits, seconds = zip(*found, strict=True)
    print(f"longest wait {max(waits) * 1000:.1f} ms of five runs of {sorted(seconds)[2]:.1f} s;", end=" ")
    print(f"a plain loop, a hundredth of the work: {alone * 1000:.0f} ms")


if __name__ == "__main__":
    asyncio.run(main())
