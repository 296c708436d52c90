"""Replies while policies change: `python -m tests.bench.swaps`.

Sixteen people stream without a pause while twenty random adapters are published one after the other, as the
trainer does it, and each goes live. Promised: no request fails and none is answered by two policies. That is
read off the chunks and, because a chunk may be wrong about it, off the numbers: each stored reply's
log-probabilities must be those of the policy that it names, computed again here. About 3 minutes.
"""

import argparse
import asyncio
import json
import statistics
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from openai import AsyncOpenAI, OpenAIError

from deploy.local.postgres import database
from schemas.database import Pool, open_pool
from schemas.policies import BASE, Manifest
from schemas.settings import Settings, load
from tests.bench.service import hearken_up
from tests.installation import ADMIN_KEY
from tests.unlimited import UNLIMITED_ENVIRONMENT
from trainer.data.round_inputs import RoundInputs
from trainer.model.adapter import probe
from trainer.model.backbone import Backbone
from trainer.records import publish, record
from trainer.records.record import RoundRecord
from trainer.starter import MODEL_DIR
from trainer.starter.world import prompts

STREAMS = 16
SWAPS = 20
_SPREAD = 0.03  # of the random B matrices: replies change, and stay sentences
_LIVE_SECONDS = 30
_BETWEEN_SECONDS = 2.0


class Traffic:
    """Streams until told to stop; what failed, and what named more than one policy."""

    def __init__(self, client: AsyncOpenAI) -> None:
        self.stop = threading.Event()
        self.failures: Counter[str] = Counter()
        self.mixed = 0
        self.replies: Counter[str] = Counter()
        self._client = client

    async def run(self) -> None:
        await asyncio.gather(*(self._stream(number) for number in range(STREAMS)))

    async def _stream(self, number: int) -> None:
        asked = prompts(1_000, seed=number)
        while not self.stop.is_set():
            try:
                await self._reply(asked.pop().prompt)
            except OpenAIError as error:
                self.failures[f"{type(error).__name__}: {error}"[:200]] += 1

    async def _reply(self, prompt: str) -> None:
        named: set[str] = set()
        finished = False
        stream = await self._client.chat.completions.create(
            model="default", messages=[{"role": "user", "content": prompt}], stream=True, temperature=1.0
        )
        async for chunk in stream:
            named.add(chunk.system_fingerprint or "none")
            named.update((chunk.model_extra or {}).get("hearken", {}).get("policies", []))
            finished = finished or any(choice.finish_reason for choice in chunk.choices)
        self.mixed += len(named) != 1
        self.failures["ended early"] += not finished
        self.replies.update(named)


def write_random(backbone: Backbone, settings: Settings, number: int, parent: str) -> Manifest:
    """A new adapter, random around zero, on disk."""
    torch.manual_seed(number)
    for name, weights in backbone.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=_SPREAD)
    inputs = RoundInputs(draw=number, parent=parent, votes=0, events=[], turns=[], positions={})
    artifacts = publish.TrainingArtifacts(inputs, [], [], [], {})
    return publish.write(backbone, settings, number, probe(backbone), artifacts)


def register(settings: Settings, pool: Pool, manifest: Manifest) -> None:
    """Registers an adapter as the trainer does."""
    row = record.begin(pool, settings.project, manifest.parent or BASE)
    publish.register(pool, settings, manifest, [], row, RoundRecord(0, manifest.parent or BASE))


def wait_until_live(pool: Pool, policy: str) -> float:
    """Seconds until everybody is answered by it. Raises RuntimeError when that takes too long."""
    begun = time.monotonic()
    while time.monotonic() - begun < _LIVE_SECONDS:
        with pool.connection() as connection:
            route = connection.execute("select live from routes").fetchone()
        if route is not None and route["live"] == policy:
            return time.monotonic() - begun
        time.sleep(0.05)
    raise RuntimeError(f"{policy} was not live within {_LIVE_SECONDS} seconds")


def distances(backbone: Backbone, settings: Settings, pool: Pool) -> tuple[list[float], list[float]]:
    """For each stored reply of a random adapter, the largest distance (nats) at any token between its stored
    log-probabilities and those of the policy that it names, and the base's."""
    with pool.connection() as connection:
        rows = connection.execute(
            "select r.policy, t.prompt_token_ids, r.token_ids, r.logprobs from replies r"
            " join turns t on t.id = r.turn_id where r.policy <> %s order by r.policy",
            [BASE],
        ).fetchall()
    own: list[float] = []
    base: list[float] = []
    loaded = ""
    for row in rows:
        if row["policy"] != loaded:
            loaded = row["policy"]
            backbone.load_adapter(settings.policies_dir / settings.project / loaded)
        own.append(_distance(backbone, row))
        with backbone.reference():
            base.append(_distance(backbone, row))
    return own, base


@torch.no_grad()
def _distance(backbone: Backbone, row: dict[str, Any]) -> float:
    with backbone.full_precision():
        logprobs = backbone.logprobs_BR(backbone.pad([row["prompt_token_ids"]], [row["token_ids"]]))[0]
    own = torch.tensor(row["logprobs"])
    return float((logprobs[: len(own)] - own).abs().max())


async def measure(url: str, data_dir: Path, swaps: int) -> dict[str, Any]:
    settings = load(data_dir=data_dir, model=str(MODEL_DIR))
    torch.set_num_threads(1)
    backbone = Backbone(MODEL_DIR, settings.trainer.rl)
    with database(settings) as database_url, open_pool(database_url) as pool:
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key=ADMIN_KEY, max_retries=0) as client:
            traffic = Traffic(client)

            def swap() -> list[float]:
                seconds, parent = [], BASE
                try:
                    for number in range(1, swaps + 1):
                        time.sleep(_BETWEEN_SECONDS)
                        manifest = write_random(backbone, settings, number, parent)
                        register(settings, pool, manifest)
                        parent = manifest.id
                        seconds.append(wait_until_live(pool, parent))
                    time.sleep(_BETWEEN_SECONDS)
                finally:
                    traffic.stop.set()
                return seconds

            _, seconds = await asyncio.gather(traffic.run(), asyncio.to_thread(swap))
        own, base = distances(backbone, settings, pool)
    tolerance = settings.engine.probe_tolerance
    return {
        "swaps": len(seconds),
        "seconds_to_live_median": statistics.median(seconds),
        "replies": traffic.replies.total(),
        "policies_met": len(traffic.replies),
        "failed": traffic.failures.total(),
        "failures": {what: count for what, count in traffic.failures.items() if count},
        "named_two_policies": traffic.mixed,
        "numbers_of_another_policy": sum(distance > tolerance for distance in own),
        "largest_distance": max(own),
        "median_distance_to_the_base": statistics.median(base),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--swaps", type=int, default=SWAPS)
    swaps = parser.parse_args().swaps
    with hearken_up(**UNLIMITED_ENVIRONMENT) as service:
        figures = asyncio.run(measure(service.url, service.data_dir, swaps))
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):32} {value if not isinstance(value, float) else f'{value:.4f}'}")
    print(json.dumps(figures))
    wrong = figures["failed"] + figures["named_two_policies"] + figures["numbers_of_another_policy"]
    return 0 if wrong == 0 and figures["swaps"] == swaps else 1


if __name__ == "__main__":
    sys.exit(main())
