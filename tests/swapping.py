"""A service whose policies change, for tests of the swap; the fixture is `swapping`."""

import asyncio
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row

from schemas.policies import BASE, CONFIG, WEIGHTS, Probe
from serving import rollout
from serving.services import Services
from tests.installation import Installation
from tests.service import PROBE, Registry, Service, make_keys, policy_of_adapter

SHOP = "sk-hearken-shop-0123456789"  # the admin key of another project
ASK = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}

LIE = Probe(token_ids=PROBE, logprobs=[-1.0] * 11, base_logprobs=[-5.0] * 11)


def resident(service: Service) -> set[str]:
    cards = httpx.get(f"{service.settings.vllm.urls[0]}/v1/models").json()["data"]
    return {policy_of_adapter(card["id"]) for card in cards}


def go_live(service: Service, policy: str, **given: Any) -> None:
    service.registry.publish(policy, **given)
    service.until(lambda: service.chat(max_tokens=1)["system_fingerprint"] == policy)


def followed(service: Service, services: Services | None = None) -> None:
    """Waits until the registry was followed once, from a look that begins after this call: by the service, or
    by the `services` of another on its database."""
    swap, looks = (services or service.services).swap, threading.Event()
    reconcile = swap.reconcile

    async def look() -> None:
        try:
            await reconcile()
        finally:
            looks.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(swap, "reconcile", look)
        service.rows("select pg_notify('hearken_policies', 'default')")
        assert looks.wait(20)


async def roll_back(service: Service) -> None:
    async with await psycopg.AsyncConnection.connect(
        service.settings.database_url or "", row_factory=dict_row
    ) as connection:
        await rollout.rollback(connection, "default", "it was rude")


def hearken(service: Service, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HEARKEN_DATABASE_URL": service.settings.database_url or ""}
    return subprocess.run(
        Installation.hearken(*words), env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def copy(service: Service, policy: str) -> Path:
    """The directory of a policy that is not announced yet, with another's files."""
    directory = service.registry.publish("p9-ffffff", seed=1, state="retired")
    target = directory.with_name(policy)
    target.mkdir()
    for name in (WEIGHTS, CONFIG):
        (target / name).write_bytes((directory / name).read_bytes())
    return target


def lie(service: Service, policy: str, state: str = "published") -> None:
    """Announce a policy whose manifest does not match its weights."""
    service.registry.announce(policy, copy(service, policy), parent="p0", probe=LIE, state=state)


def tamper(directory: Path) -> None:
    weights = bytearray((directory / WEIGHTS).read_bytes())
    weights[-3] ^= 1
    (directory / WEIGHTS).write_bytes(weights)


def another_project(service: Service) -> Registry:
    """Makes the project `shop`, with p0 live and the admin key SHOP."""
    settings = service.settings.model_copy(
        update={"project": "shop", "admin_key": SHOP, "public_key": f"pk-{SHOP}"}
    )
    asyncio.run(make_keys(settings))
    registry = Registry(settings)
    registry.publish(BASE, parent=None, seed=0, state="live")
    return registry
