"""Outages of the policies' folder and of the engine while policies are published: `python -m
tests.bench.policy_outages`.

OUTAGES times the folder is away for some seconds, or the engine is killed, or both; before some of them a
policy is published. Promised: no policy is rejected, and in the end the newest one answers. About 15
minutes.
"""

import asyncio
import json
import random
import sys
import time

import psycopg

from schemas.database import open_pool
from schemas.settings import load
from tests.bench.fleet import Publisher
from tests.bench.service import hearken_up
from tests.installation import Installation, wait
from tests.unlimited import UNLIMITED_ENVIRONMENT
from trainer.starter import MODEL_DIR

OUTAGES = 100
POLICIES = 20
KINDS = ("folder", "engine", "both")
_AWAY = (0.5, 4.0)  # seconds
_CHAT = {"model": "default", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}


def strike(service: Installation, kind: str, seconds: float) -> None:
    """Takes away what `kind` says for some seconds."""
    policies = service.data_dir / "policies"
    away = policies.with_name("policies-away")
    if kind != "engine":
        policies.rename(away)
    if kind != "folder":
        service.kill("engine")
    time.sleep(seconds)
    if kind != "engine":
        away.rename(policies)


def answering(service: Installation) -> str | None:
    with service.client() as client:
        answer = client.post("/v1/chat/completions", json=_CHAT)
    return str(answer.json()["system_fingerprint"]) if answer.status_code == 200 else None


def main() -> int:
    chosen = random.Random(11)
    with hearken_up(HEARKEN_SERVING__BASE_SHARE="0", **UNLIMITED_ENVIRONMENT) as service:
        service.run("pause")
        url = service.database_url()
        settings = load(data_dir=service.data_dir, model=str(MODEL_DIR))
        with open_pool(url, size=1) as pool, psycopg.connect(url, autocommit=True) as connection:
            publisher = Publisher(settings, pool, POLICIES)
            newest = ""
            for number in range(OUTAGES):
                if number % (OUTAGES // POLICIES) == 0:
                    newest = asyncio.run(publisher.next())
                strike(service, KINDS[number % len(KINDS)], chosen.uniform(*_AWAY))
                wait(lambda: answering(service) is not None, "somebody is answered again", 60)
            wait(lambda: answering(service) == newest, "the newest policy answers", 60)
            states = dict(
                connection.execute("select state, count(*)::int from policies group by state").fetchall()
            )
    print(json.dumps({"outages": OUTAGES, "policies": states, "lost": states.get("rejected", 0)}))
    return 1 if states.get("rejected") else 0


if __name__ == "__main__":
    sys.exit(main())
