"""What every process does before its work: its settings made definite, the database brought up to the code's
schema. Replicas that start at once do it one after the other, under the migrations' lock."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from deploy.local.base_model import base_directory
from deploy.local.postgres import database
from schemas.database import migrate, open_async_pool
from schemas.errors import StartError
from schemas.settings import Settings
from serving.keys import NewKeys, ensure_keys

PATIENCE = 30.0


@contextmanager
def prepared(settings: Settings) -> Iterator[Settings]:
    """`settings` with the database's URL and the base's directory in place, while the database is there.
    Raises StartError, for a database that is away after PATIENCE seconds: it may be starting too."""
    with prepared_database(settings) as settings:
        yield settings.model_copy(update={"model": str(base_directory(settings.model))})


@contextmanager
def prepared_database(settings: Settings) -> Iterator[Settings]:
    """The same for a process that has no use for the base, and so for no data folder: its URL alone."""
    with database(settings) as url:
        deadline = time.monotonic() + PATIENCE
        while not _migrated(url, last=time.monotonic() > deadline):
            time.sleep(0.5)
        yield settings.model_copy(update={"database_url": url})


def _migrated(url: str, *, last: bool) -> bool:
    try:
        migrate(url)
    except psycopg.OperationalError as error:
        if last:
            raise StartError(f"The database of this Hearken does not answer: {error}") from None
        return False
    return True


def keys(settings: Settings) -> NewKeys | None:
    """The installation's keys, when this call made them. Raises StartError for a key that is too short."""

    async def ensure() -> NewKeys | None:
        async with open_async_pool(settings.database_url or "", size=1) as pool:
            return await ensure_keys(pool, settings)

    return asyncio.run(ensure())


def keys_shown(made: NewKeys | None) -> list[str]:
    if made is None:
        return []
    return [
        "Your keys, shown only now (only their hashes are kept):",
        f"  admin        {made.admin}   secret: operators and your servers",
        f"  publishable  {made.publishable}   may be seen: chat and votes from browsers",
        "",
    ]
