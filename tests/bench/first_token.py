"""What standing before vLLM adds to the first token: `python -m tests.bench.first_token`.

Eight streams at once on one vLLM server (its CPU build, the starter, uncompiled), straight and through a
`hearken up` that records every turn, in turns, with the straight way twice as a control. Promised: 3 ms at
p50. About 3 minutes.
"""

import asyncio
import json
import statistics
import sys
from typing import Any

import aiohttp

from tests.bench.listen import Heard, listen
from tests.bench.load import at
from tests.bench.replicas import servers
from tests.bench.service import hearken_up
from trainer.starter.world import prompts

STREAMS = 8
ROUNDS = 9
EACH = 6  # streams of each connection in a round
_SAMPLING = {"max_tokens": 16, "temperature": 1.0, "top_p": 1.0, "n": 1}
_STRAIGHT = {"model": "p0", "logprobs": True, "return_token_ids": True}
"""What serving itself asks for."""


async def hear(url: str, seed: int, **fields: Any) -> list[Heard]:
    asked = iter(prompts(STREAMS * EACH, seed=seed))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one_after_the_other() -> list[Heard]:
            return [
                await listen(
                    session,
                    url,
                    {**_SAMPLING, **fields, "messages": [{"role": "user", "content": each.prompt}]},
                )
                for each in asked
            ]

        heard = await asyncio.gather(*(one_after_the_other() for _ in range(STREAMS)))
    return [each for some in heard for each in some]


def measure(engine: str, service: str) -> dict[str, list[float]]:
    """The median time to the first token of each round, seconds. Each round has prompts of its own, the same
    for every way."""
    ways: dict[str, tuple[str, dict[str, Any]]] = {
        "direct": (engine, _STRAIGHT),
        "through": (service, {"model": "default"}),
        "again": (engine, _STRAIGHT),
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(-1, ROUNDS):
        for way, (url, fields) in ways.items():
            heard = asyncio.run(hear(url, number + 1, **fields))
            if number < 0:
                continue  # warming up
            firsts = [each.first for each in heard]
            found[way].append(statistics.median(firsts))
            print(f"  {way:8} p50 {at(0.5, firsts) * 1e3:6.1f} ms  p99 {at(0.99, firsts) * 1e3:6.1f} ms")
    return found


def main() -> int:
    with (
        servers(1) as (engine,),
        hearken_up(
            HEARKEN_VLLM__URLS=json.dumps([engine.url]), HEARKEN_SERVING__REQUESTS_PER_MINUTE="1000000"
        ) as service,
    ):
        found = measure(engine.url, service.url)
    middle = {way: statistics.median(firsts) * 1e3 for way, firsts in found.items()}
    added, control = middle["through"] - middle["direct"], middle["again"] - middle["direct"]
    print(f"added to the first token at p50: {added:.1f} ms (control {control:.1f} ms)")
    print(json.dumps({"p50_ms": middle, "added_ms": added, "control_ms": control}))
    return 0 if added <= 3 else 1


if __name__ == "__main__":
    sys.exit(main())
