"""Many projects on two engines: `python -m tests.bench.projects`.

Each project has a policy of the same name with weights of its own. Together they have many times the
adapters that the engines have in memory, so the engines page them. Greedy replies through the API are
compared with those that each policy gives alone on an engine of its own; a token may differ where the
reference itself was undecided.

Promised: no reply from another project's adapter, and no request refused. About three minutes.
"""

import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from deploy.local.postgres import database
from schemas import logs
from schemas.database import migrate
from schemas.policies import BASE
from schemas.settings import Settings
from serving.engine import EngineClient
from tests.contract.engines import World, start_embedded
from tests.service import Registry, Service, make_keys, run_service

PROJECTS = 50
MEMORY = 8  # adapters of an engine
REPLIES = 5_000
STREAMS = 16
POLICY = "p1-aaaaaa"
TIE = 0.02  # nats between the two likeliest tokens: nearer than that, a batch's rounding may turn them
ASK = {
    "model": "default",
    "messages": [{"role": "user", "content": "Tea?"}],
    "max_tokens": 8,
    "temperature": 0,
    "logprobs": True,
    "top_logprobs": 2,
}


@dataclass(frozen=True, slots=True)
class Greedy:
    """The tokens of a greedy reply, and how much likelier each is than the next, nats."""

    tokens: list[str]
    leads: list[float]

    @classmethod
    def of(cls, items: list[dict[str, Any]]) -> "Greedy":
        items = [item for item in items if not item["token"].startswith("<|")]  # the API does not show them
        tops = [sorted((top["logprob"] for top in item["top_logprobs"]), reverse=True) for item in items]
        return cls([item["token"] for item in items], [first - second for first, second in tops])

    def allows(self, other: "Greedy") -> bool:
        """Returns whether `other` is the same up to a place where this reply was undecided."""
        for mine, theirs, lead in zip(self.tokens, other.tokens, self.leads, strict=False):
            if mine != theirs:
                return lead < TIE
        return len(self.tokens) == len(other.tokens)


def key(project: str) -> str:
    return f"sk-hearken-{project}-0123456789abcdef"


def add_project(service: Service, number: int) -> Path:
    """Makes a project with p0 live and POLICY published; returns the policy's directory."""
    project = f"project-{number}"
    update = {"project": project, "admin_key": key(project), "public_key": f"pk-{key(project)}"}
    settings: Settings = service.settings.model_copy(update=update)
    asyncio.run(make_keys(settings))
    registry = Registry(settings)
    registry.publish(BASE, parent=None, seed=0, state="live")
    return registry.publish(POLICY, seed=number + 1)


async def alone(url: str, directories: dict[str, Path]) -> dict[str, Greedy]:
    """Returns the reply of each project's policy, each alone on the engine at `url`."""
    engine = EngineClient(url, timeout=60)
    fields = {name: value for name, value in ASK.items() if name not in ("model", "messages", "logprobs")}
    found = {}
    for project, directory in directories.items():
        await engine.load(project, directory)
        items = []
        async for delta in engine.stream(project, ASK["messages"], {"n": 1, **fields}):
            items += delta.logprobs
        found[project] = Greedy.of(items)
        await engine.unload(project)
    await engine.close()
    return found


async def ask(url: str, expected: dict[str, Greedy]) -> dict[str, Any]:
    chosen = random.Random(3)
    outcomes: Counter[str] = Counter()
    seconds: list[float] = []
    left = REPLIES

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            project = chosen.choice(list(expected))
            started = time.monotonic()
            headers = {"Authorization": f"Bearer {key(project)}"}
            async with session.post(f"{url}/v1/chat/completions", json=ASK, headers=headers) as response:
                body = await response.json()
                status = response.status
            seconds.append(time.monotonic() - started)
            if status != 200:
                outcomes[str(status)] += 1
            elif body["system_fingerprint"] != POLICY:
                outcomes["the base"] += 1
            else:
                own = expected[project].allows(Greedy.of(body["choices"][0]["logprobs"]["content"]))
                outcomes["right" if own else "wrong"] += 1

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:
        await asyncio.gather(*(client(session) for _ in range(STREAMS)))
    cuts = statistics.quantiles(seconds, n=100)
    return {"outcomes": dict(outcomes), "median_s": round(cuts[49], 3), "p99_s": round(cuts[98], 3)}


def main() -> int:
    logs.configure("error")
    engine = contextmanager(start_embedded)
    memory = ("--max-loras", str(MEMORY))
    with (
        tempfile.TemporaryDirectory() as folder,
        database(Settings(data_dir=Path(folder) / "data")) as database_url,
    ):
        base = World(Path(folder), "llama").base
        migrate(database_url)
        with (
            engine(base, *memory) as one,
            engine(base, *memory) as two,
            engine(base, "--max-loras", "4") as apart,
            run_service(
                database_url, Path(folder) / "service", base, engines=[one, two], max_adapters=MEMORY
            ) as service,
        ):
            directories = {f"project-{number}": add_project(service, number) for number in range(PROJECTS)}
            expected = asyncio.run(alone(apart, directories))
            live = "select count(*) from routes where live = %s"
            service.until(lambda: service.rows(live, POLICY) == [(PROJECTS,)], seconds=120)
            replicas = service.services.fleet.replicas
            found = asyncio.run(ask(service.url, expected))
            found |= {
                "adapters_in_memory": MEMORY,
                "adapters_loaded": [len(replica.loaded) for replica in replicas],
            }
    print(json.dumps(found))
    return 0 if found["outcomes"] == {"right": REPLIES} else 1


if __name__ == "__main__":
    sys.exit(main())
