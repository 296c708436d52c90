"""No reply comes from another adapter than the one asked for, while adapters come and go, and more are loaded
than fit into the engine's memory.

An engine that mixes them up says nothing: only its replies tell. So greedy replies, base and adapters in the
same batches, are compared with the ones that each adapter gave alone.
"""

import asyncio
import itertools
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from engines import ADAPTERS, SLOTS, World, write_adapter

from serving.engine import EngineClient

MORE = 6  # adapters besides those of the suite
STREAMS = 12
TIE = 0.02  # nats between the two likeliest tokens: nearer than that, a batch's rounding may turn them
PROMPTS = [
    [{"role": "user", "content": text}] for text in ("The cat", "Tea?", "Paris is", "What", "on the mat")
]
GREEDY = {"n": 1, "temperature": 0, "max_tokens": 8, "top_logprobs": 2}


@dataclass
class Reply:
    token_ids: list[int] = field(default_factory=list)
    leads: list[float] = field(default_factory=list)  # nats between the likeliest token and the next

    def is_like(self, other: "Reply") -> bool:
        """The same tokens, up to a place where the reference itself was undecided."""
        for mine, theirs, lead in itertools.zip_longest(self.token_ids, other.token_ids, other.leads):
            if mine != theirs:
                return lead is not None and lead < TIE
        return True


async def greedy(engine: EngineClient, policy: str, messages: list[dict[str, Any]]) -> Reply:
    reply = Reply()
    async for delta in engine.stream(policy, messages, GREEDY):
        reply.token_ids += delta.token_ids
        for item in delta.logprobs:
            first, second = sorted((top["logprob"] for top in item["top_logprobs"]), reverse=True)[:2]
            reply.leads.append(first - second)
    return reply


class Churn:
    """Adapters at `paths`, each loaded under a name of its own every time; the base stays."""

    def __init__(self, engine: EngineClient, paths: list[Path], base: Path, replies: int) -> None:
        self.engine = engine
        self.wanted = replies
        self.paths = paths
        self.base = base
        self.random = random.Random(5)
        self.names = itertools.count(1)
        self.resident: dict[str, Path] = {"p0": base}
        self.busy: Counter[str] = Counter()
        self.references: dict[tuple[Path, int], Reply] = {}
        self.asked = 0
        self.wrong: list[str] = []

    async def load(self) -> None:
        path = self.random.choice([path for path in self.paths if path not in self.resident.values()])
        name = f"p{next(self.names)}-abcdef"
        await self.engine.load(name, path)
        self.resident[name] = path

    async def take_references(self) -> None:
        for path in (self.base, *self.paths):
            name = "p0" if path == self.base else f"p{next(self.names)}-abcdef"
            if name != "p0":
                await self.engine.load(name, path)
            for number, messages in enumerate(PROMPTS):
                self.references[path, number] = await greedy(self.engine, name, messages)
            if name != "p0":
                await self.engine.unload(name)

    async def ask(self) -> None:
        while self.asked < self.wanted:
            self.asked += 1
            name, number = self.random.choice(list(self.resident)), self.random.randrange(len(PROMPTS))
            path = self.resident[name]
            self.busy[name] += 1
            reply = await greedy(self.engine, name, PROMPTS[number])
            self.busy[name] -= 1
            if not reply.is_like(self.references[path, number]):
                self.wrong.append(f"{name} ({path.name}), prompt {number}")

    async def exchange(self) -> None:
        """As the swap does it: what no request uses goes, and another takes its place."""
        while self.asked < self.wanted:
            idle = [name for name in self.resident if name != "p0" and not self.busy[name]]
            if idle:
                name = self.random.choice(idle)
                del self.resident[name]
                await self.engine.unload(name)
                await self.load()
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("wanted", [300, pytest.param(1_000, marks=pytest.mark.full)])
async def test_every_reply_is_its_own_adapters(url: str, world: World, tmp_path: Path, wanted: int) -> None:
    engine = EngineClient(url, timeout=60)
    for name in await engine.adapters() - {"p0"}:
        await engine.unload(name)
    await engine.load("p0", world.adapters["p0"])
    paths = [world.adapters[name] for name in ADAPTERS if name != "p0"]
    for seed in range(MORE):
        write_adapter(world.base, tmp_path / f"more-{seed}", 100 + seed)
        paths.append(tmp_path / f"more-{seed}")
    churn = Churn(engine, paths, world.adapters["p0"], wanted)
    await churn.take_references()
    assert len({tuple(reply.token_ids) for reply in churn.references.values()}) > 5 * len(paths) // 2
    for _ in range(SLOTS + 2):
        await churn.load()
    before = next(churn.names)
    await asyncio.gather(churn.exchange(), *(churn.ask() for _ in range(STREAMS)))
    swaps = next(churn.names) - before
    await engine.close()
    assert churn.wrong == []
    assert churn.asked >= wanted
    assert swaps > wanted // 30
