"""Two vLLM servers while policies change and one of them dies: `python -m tests.bench.fleet`.

People stream through one `hearken up` before both servers (their CPU build, the starter, uncompiled). Random
adapters, written beforehand, are announced as the trainer does it. Measured, in this order:

- windows with a swap every few seconds and windows without, in turns: the p99 of a stream of 16 tokens;
- in the same swaps: from the announcement to the first token of a stream that the new policy answered;
- rollbacks: until the answer to the request that asks for it; the next stream must be the older policy's;
- one server killed: nobody waits for it and, started again, it is back in rotation with every adapter;
- `CHURN` swaps more: what the servers hold in memory at the first and at the last of them.

Promised: 5 s, 100 ms, 1.2 times, 60 s, and memory that does not grow. About 12 minutes.
"""

import asyncio
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import aiohttp
import httpx
import torch

from deploy.local.postgres import database
from schemas.database import Pool, open_pool
from schemas.policies import BASE
from schemas.settings import Settings, load
from tests.bench.listen import Heard, listen
from tests.bench.load import at
from tests.bench.replicas import Server, in_rotation, servers
from tests.bench.service import hearken_up
from tests.bench.swaps import register, wait_until_live, write_random
from tests.installation import ADMIN_KEY, Installation
from tests.unlimited import UNLIMITED_ENVIRONMENT
from trainer.model.backbone import Backbone
from trainer.starter import MODEL_DIR
from trainer.starter.world import prompts

PEOPLE = 8
WINDOWS = 5
WINDOW_SECONDS = 16.0
SWAPS_EACH = 4  # in a window
ROLLBACKS = 10
CHURN = 200
_SETTLED = 20  # swaps until every slot and cache has been used
_GROWTH = 1.05


class People:
    """Stream one short reply after the other until the block ends."""

    def __init__(self, url: str, count: int) -> None:
        self.url = url
        self.count = count
        self.heard: list[Heard] = []
        self.failures: Counter[str] = Counter()

    async def __aenter__(self) -> "People":
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self._tasks = [asyncio.create_task(self._stream(number)) for number in range(self.count)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    async def _stream(self, number: int) -> None:
        asked = prompts(5_000, seed=number)
        for each in asked:
            body = {
                "model": "default",
                "messages": [{"role": "user", "content": each.prompt}],
                "max_tokens": 16,
            }
            try:
                self.heard.append(await listen(self._session, self.url, body))
            except (RuntimeError, aiohttp.ClientError) as error:
                self.failures[str(error)[:200]] += 1
                await asyncio.sleep(0.1)

    def first_from(self, policy: str) -> float | None:
        """The moment of the first token that `policy` sent anyone."""
        return min((heard.arrivals[0] for heard in self.heard if heard.policies == {policy}), default=None)


async def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"still waiting after {seconds} seconds")
        await asyncio.sleep(0.02)
    return found


class Publisher:
    """Adapters on disk, each a child of the base, announced one after the other."""

    def __init__(self, settings: Settings, pool: Pool, count: int) -> None:
        self.pool = pool
        self._settings = settings
        torch.set_num_threads(1)
        backbone = Backbone(MODEL_DIR, settings.trainer.rl)
        self._waiting = iter(
            [write_random(backbone, settings, number, BASE) for number in range(1, count + 1)]
        )

    async def next(self) -> str:
        manifest = next(self._waiting)
        await asyncio.to_thread(register, self._settings, self.pool, manifest)
        return manifest.id


async def swaps(url: str, publisher: Publisher) -> dict[str, Any]:
    """Latency with and without swaps, and from each announcement to its first token."""
    to_first: list[float] = []
    failures: Counter[str] = Counter()

    async def exchange(people: People) -> None:
        for _ in range(SWAPS_EACH):
            policy = await publisher.next()
            announced = time.perf_counter()
            to_first.append(await until(partial(people.first_from, policy)) - announced)
            await asyncio.sleep(max(0.0, announced + WINDOW_SECONDS / SWAPS_EACH - time.perf_counter()))

    async def rest(_: People) -> None:
        await asyncio.sleep(WINDOW_SECONDS)

    async def window(doing: Callable[[People], Awaitable[None]]) -> list[float]:
        async with People(url, PEOPLE) as people:
            await doing(people)
        failures.update(people.failures)
        return [heard.arrivals[-1] - heard.sent for heard in people.heard]

    await window(rest)  # warming up
    ratios = []
    for _ in range(WINDOWS):
        calm, busy = await window(rest), await window(exchange)
        ratios.append(at(0.99, busy) / at(0.99, calm))
        print(
            f"  calm p50 {at(0.5, calm) * 1e3:.0f} p99 {at(0.99, calm) * 1e3:.0f} ms,"
            f" with swaps p50 {at(0.5, busy) * 1e3:.0f} p99 {at(0.99, busy) * 1e3:.0f} ms"
        )
    return {
        "p99_ratio": statistics.median(ratios),
        "to_first_token_s": statistics.median(to_first),
        "to_first_token_worst_s": max(to_first),
        "failed_in_swaps": failures.total(),
    }


async def rollbacks(url: str, publisher: Publisher) -> dict[str, Any]:
    """Milliseconds of the request that takes a policy back, under load; the next stream is not its."""
    seconds = []
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    async with (
        httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as client,
        aiohttp.ClientSession() as session,
        People(url, PEOPLE) as people,
    ):
        for _ in range(ROLLBACKS):
            policy = await publisher.next()
            await until(partial(people.first_from, policy))
            newest = (await client.get("/v1/rollouts", params={"limit": 1})).json()["data"][0]
            began = time.perf_counter()
            answer = await client.post(f"/v1/rollouts/{newest['id']}/rollback")
            seconds.append(time.perf_counter() - began)
            answer.raise_for_status()
            body = {"model": "default", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
            if policy in (await listen(session, url, body)).policies:
                raise RuntimeError(f"{policy} answered after it was taken back")
    return {"rollback_ms": statistics.median(seconds) * 1e3, "rollback_worst_ms": max(seconds) * 1e3}


async def loss(url: str, fleet: list[Server]) -> dict[str, Any]:
    """One server is killed under load, and started again ten seconds later."""
    async with People(url, PEOPLE) as people:
        await asyncio.sleep(3)
        await asyncio.to_thread(fleet[0].kill)
        killed = len(people.heard)
        await asyncio.sleep(10)
        meanwhile = len(people.heard) - killed
        began = time.perf_counter()
        fleet[0].start()
        await until(lambda: in_rotation(url) == len(fleet), 180)
        back = time.perf_counter() - began
    print("  ", dict(people.failures))
    return {
        "answered_without_it": meanwhile,
        "broken_by_the_kill": people.failures.total(),
        "back_in_rotation_s": back,
    }


async def churn(url: str, publisher: Publisher, fleet: list[Server]) -> dict[str, Any]:
    """MiB of all servers after the first swaps and after the last, their caches being full."""
    weights = []
    for server in fleet:
        await asyncio.to_thread(server.fill_cache)
    async with People(url, 2) as people:
        for number in range(CHURN):
            policy = await publisher.next()
            await asyncio.to_thread(wait_until_live, publisher.pool, policy)
            if number in (_SETTLED, CHURN - 1):
                weights.append(sum(server.memory() for server in fleet) / 2**20)
    return {
        "memory_mib": weights[0],
        "memory_growth": weights[1] / weights[0],
        "failed_in_churn": people.failures.total(),
    }


async def measure(service: Installation, fleet: list[Server]) -> dict[str, Any]:
    settings = load(data_dir=service.data_dir, model=str(MODEL_DIR))
    figures: dict[str, Any] = {}
    with database(settings) as database_url, open_pool(database_url) as pool:
        publisher = Publisher(settings, pool, WINDOWS * SWAPS_EACH + ROLLBACKS + CHURN)
        figures |= await swaps(service.url, publisher)
        figures |= await rollbacks(service.url, publisher)
        figures |= await loss(service.url, fleet)
        figures |= await churn(service.url, publisher, fleet)
    return figures


def main() -> int:
    with servers(2) as fleet:
        urls = json.dumps([server.url for server in fleet])
        with hearken_up(
            HEARKEN_VLLM__URLS=urls, HEARKEN_SERVING__BASE_SHARE="0", **UNLIMITED_ENVIRONMENT
        ) as service:
            figures = asyncio.run(measure(service, fleet))
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):32} {value if not isinstance(value, float) else f'{value:.3f}'}")
    print(json.dumps(figures))
    kept = (
        figures["p99_ratio"] <= 1.2
        and figures["to_first_token_s"] <= 5
        and figures["rollback_ms"] <= 100
        and figures["back_in_rotation_s"] <= 60
        and figures["memory_growth"] <= _GROWTH
        and figures["answered_without_it"] > 0
        and figures["failed_in_swaps"] + figures["failed_in_churn"] == 0
    )
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
