"""What streaming through the service does to a stream: `python -m tests.bench.streams`.

Two constant engines of 64 numbered tokens stand behind one serving process that records every turn. One tears
its streams into pieces that end anywhere; 10,000 of those are read to their end, and must say every number in
order. The other paces its tokens, 20 ms apart; the gaps between them are read with the service in between and
without, in turns. Promised: nothing lost or out of order; 2 ms added to the gap at p99, 8 streams. 4 minutes.
"""

import asyncio
import itertools
import json
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

from tests.bench.gateway import constant, hearken
from tests.bench.listen import Heard, listen
from tests.bench.load import at
from tests.bench.upstream import TEXT, TOKENS

STREAMS = 10_000
AT_ONCE = 32
PACED = 8  # at once
ROUNDS = 5
PACED_EACH = 5  # streams of each connection in a round
_BODY = {"messages": [{"role": "user", "content": "Hello there"}], "max_tokens": TOKENS, "temperature": 1}


async def hear(url: str, streams: int, at_once: int, **fields: Any) -> list[Heard]:
    numbers = iter(range(streams))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one_after_the_other() -> list[Heard]:
            return [await listen(session, url, {**_BODY, **fields}) for _ in numbers]

        each = await asyncio.gather(*(one_after_the_other() for _ in range(at_once)))
    return list(itertools.chain.from_iterable(each))


def torn(folder: Path) -> int:
    """How many of the torn streams did not say what they should."""
    with constant("torn") as upstream, hearken(folder, upstream) as (port, _):
        heard = asyncio.run(hear(f"http://127.0.0.1:{port}", STREAMS, AT_ONCE, model="default"))
    return sum(each.text != TEXT or not each.ended for each in heard)


def paced(folder: Path) -> dict[str, list[float]]:
    """The 99th percentile of the gaps of each round, seconds: straight from the engine, the same again as a
    control, and through the service."""
    found: dict[str, list[float]] = {"direct": [], "again": [], "through": []}
    with ExitStack() as stack:
        upstream = stack.enter_context(constant("paced"))
        port, _ = stack.enter_context(hearken(folder, upstream))
        ways = {
            "direct": (upstream, {"model": "p0"}), "again": (upstream, {"model": "p0"}),
            "through": (port, {"model": "default"}),
        }  # fmt: skip
        for _ in range(ROUNDS):
            for way, (where, fields) in ways.items():
                url = f"http://127.0.0.1:{where}"
                heard = asyncio.run(hear(url, PACED * PACED_EACH, PACED, **fields))
                gaps = [gap for each in heard for gap in each.gaps()]
                if len(gaps) < (TOKENS - 1) * len(heard):
                    print(f"  {way}: {len(gaps)} gaps only; tokens arrived together")
                found[way].append(at(0.99, gaps))
                print(f"  {way:8} gap p50 {at(0.5, gaps) * 1e3:6.2f} ms  p99 {at(0.99, gaps) * 1e3:6.2f} ms")
    return found


def main() -> int:
    with TemporaryDirectory(prefix="hearken-bench-") as folder:
        wrong = torn(Path(folder).resolve() / "torn")
        print(f"{STREAMS} streams torn anywhere: {wrong} wrong")
        gaps = {
            way: statistics.median(found) for way, found in paced(Path(folder).resolve() / "paced").items()
        }
    added = (gaps["through"] - gaps["direct"]) * 1e3
    control = (gaps["again"] - gaps["direct"]) * 1e3
    print(f"added to the gap at p99: {added:.2f} ms (control {control:.2f} ms)")
    print(json.dumps({"streams": STREAMS, "wrong": wrong, "added_gap_p99_ms": added, "control_ms": control}))
    return 0 if wrong == 0 and added <= 2 else 1


if __name__ == "__main__":
    sys.exit(main())
