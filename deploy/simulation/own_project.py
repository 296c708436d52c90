"""A project of its own keeps simulated people apart from real ones: it has its keys, votes and policies, and
a trainer that runs as long as the simulation. One command removes all of it."""

import asyncio
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from psycopg import sql
from psycopg.errors import ForeignKeyViolation

from deploy.local.console import reachable
from deploy.local.postgres import database
from deploy.local.process import Process
from schemas.database import connect, open_async_pool
from schemas.errors import StartError
from schemas.policies import BASE
from schemas.settings import Settings
from serving.keys import NewKeys, renew_keys
from serving.tenants.projects import add_base

PROJECT = "simulation"
"""The name of the project."""

_READY_SECONDS = 180.0
_STOP_SECONDS = 15.0
_TABLES = """
select conrelid::regclass::text as name from pg_constraint
where confrelid = 'projects'::regclass and contype = 'f' and conparentid = 0 order by name
"""


@contextmanager
def own_project(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Yields the address of the service that runs on these settings, and a new admin key and publishable key
    of the project there. Raises StartError where none runs, or it does not answer for the project in time."""
    address = f"http://{reachable(settings.host)}:{settings.port}"
    _check_running(address)
    with database(settings) as url:
        base = _base(url, settings)
        own = settings.model_copy(
            update={"database_url": url, "project": PROJECT, "admin_key": None, "public_key": None}
        )
        keys = asyncio.run(_new_keys(own, settings.project))
        assert keys.admin is not None and keys.publishable is not None  # noqa: S101, PT018  (all are new)
        trainer = Process("trainer", ["deploy.cli", "train"], _environment(own, base), _log(own), _nothing)
        trainer.start()
        try:
            _wait_until_answered(address, keys, trainer)
            yield address, keys.admin, keys.publishable
        finally:
            trainer.stop()
            trainer.wait(_STOP_SECONDS)


def remove(settings: Settings) -> None:
    """Removes the project with all that it has, wherever the database keeps it, and its policies' files."""
    with database(settings) as url, connect(url) as connection, connection.transaction():
        waiting = [row["name"] for row in connection.execute(_TABLES).fetchall()]
        while waiting:
            kept = []
            for table in waiting:
                delete = sql.SQL("delete from {} where project = %s").format(sql.SQL(table))
                try:
                    with connection.transaction():
                        connection.execute(delete, [PROJECT])
                except ForeignKeyViolation:  # a table that comes later in this round refers to it
                    kept.append(table)
            if kept == waiting:
                raise StartError(f"{PROJECT} was not removed: something refers to {', '.join(kept)}.")
            waiting = kept
        connection.execute("delete from secrets where name = %s", [f"publishable:{PROJECT}"])
        connection.execute("delete from projects where id = %s", [PROJECT])
    for folder in (settings.policies_dir, settings.rounds_dir):
        shutil.rmtree(folder / PROJECT, ignore_errors=True)


def _check_running(address: str) -> None:
    try:
        httpx.get(f"{address}/healthz", timeout=10)
    except httpx.HTTPError:
        raise StartError(
            f"Nothing answers at {address}: start `hearken up` first (HEARKEN_PORT names another port), or"
            " name a service with --url."
        ) from None


def _base(url: str, settings: Settings) -> str:
    """Returns the base model that the installation serves. Raises StartError before its first start."""
    with connect(url) as connection:
        row = connection.execute(
            "select manifest ->> 'base_model' as model from policies where project = %s and id = %s",
            [settings.project, BASE],
        ).fetchone()
    if row is None:
        raise StartError(f"{settings.project} has no base model yet: wait until `hearken up` is ready.")
    return str(row["model"])


async def _new_keys(own: Settings, installation: str) -> NewKeys:
    """Makes the project, answered by the base of the `installation`'s project, and new keys of it."""
    async with open_async_pool(own.database_url or "", size=1) as pool, pool.connection() as connection:
        keys = await renew_keys(connection, own)
        await add_base(connection, installation, PROJECT)
        return keys


def _environment(own: Settings, base: str) -> dict[str, str]:
    variables = {
        "HEARKEN_DATABASE_URL": own.database_url or "",
        "HEARKEN_DATA_DIR": str(own.data_dir.resolve()),
        "HEARKEN_MODEL": base,
        "HEARKEN_PROJECT": PROJECT,
        "HEARKEN_TRAINER__ALL_PROJECTS": "false",
        "HEARKEN_KAFKA__SERVERS": json.dumps(own.kafka.servers),
    }
    if not own.vllm.urls:  # `hearken up` alone knows the engine that it started
        variables["HEARKEN_TRAINER__RL__SAMPLER"] = "in_process"
    secret = {"HEARKEN_ADMIN_KEY", "HEARKEN_PUBLIC_KEY"}  # which a trainer does not need
    return {**{name: value for name, value in os.environ.items() if name.upper() not in secret}, **variables}


def _wait_until_answered(address: str, keys: NewKeys, trainer: Process) -> None:
    """Waits until the service answers for the project."""
    ask = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1, "store": False}
    headers = {"Authorization": f"Bearer {keys.publishable}"}
    deadline, answer = time.monotonic() + _READY_SECONDS, "nothing"
    while True:
        try:
            response = httpx.post(f"{address}/v1/chat/completions", json=ask, headers=headers, timeout=30)
            answer = str(response.status_code)
        except httpx.HTTPError as error:
            answer = str(error)
        if answer == "200":
            return
        if not trainer.alive():
            raise StartError("The trainer of the simulation ended: " + "\n  ".join(trainer.tail))
        if time.monotonic() > deadline:
            raise StartError(
                f"{address} does not answer for {PROJECT} ({answer}). Does it run on this data folder?"
            )
        time.sleep(1)


def _log(own: Settings) -> Path:
    folder = own.data_dir / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "simulation-trainer.log"


def _nothing(name: str, line: str) -> None:
    """The trainer's lines are in its log."""
