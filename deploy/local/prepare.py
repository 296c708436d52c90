"""Every process prepares before its work: it resolves the settings and migrates the database. Processes that
start at once migrate one after the other, under the migrations' advisory lock."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from deploy.local.base_model import base_directory
from deploy.local.postgres import database
from schemas.database import database_away, migrate, open_async_pool
from schemas.errors import StartError
from schemas.settings import Settings
from serving.keys import NewKeys, ensure_keys

DATABASE_TIMEOUT = 30.0  # seconds; the database may be starting too


@contextmanager
def prepared(settings: Settings) -> Iterator[Settings]:
    """Yields `settings` with the database's URL and the base's directory. An embedded database that is not
    running yet runs as long as the block. Raises StartError, after DATABASE_TIMEOUT if no database
    answers."""
    with prepared_database(settings) as settings:
        yield settings.model_copy(update={"model": str(base_directory(settings.model))})


@contextmanager
def prepared_database(settings: Settings) -> Iterator[Settings]:
    """Does the same for a process that needs no base model: yields `settings` with the database's URL."""
    with database(settings) as url:
        deadline = time.monotonic() + DATABASE_TIMEOUT
        while not _migrated(url, last=time.monotonic() > deadline):
            time.sleep(0.5)
        yield settings.model_copy(update={"database_url": url})


def _migrated(url: str, *, last: bool) -> bool:
    """Returns whether the migration was possible; raises StartError at the last attempt instead."""
    try:
        migrate(url)
    except psycopg.OperationalError as error:
        if last:
            raise StartError(database_away(error)) from None
        return False
    return True


def create_keys(settings: Settings) -> NewKeys:
    """Creates the installation's API keys if there are none, and returns those that were made up. Raises
    StartError if a key of the settings is too short."""

    async def ensure() -> NewKeys:
        async with open_async_pool(settings.database_url or "", size=1) as pool:
            return await ensure_keys(pool, settings)

    return asyncio.run(ensure())


def describe_keys(made: NewKeys) -> list[str]:
    """Returns the lines that show new keys; none without new keys."""
    uses = {
        "admin": (made.admin, "secret: for operators"),
        "secret": (made.secret, "secret: for your servers, to chat, vote and read"),
        "publishable": (made.publishable, "public: for chat and votes from browsers"),
    }
    lines = [f"  {name:12} {key}   {use}" for name, (key, use) in uses.items() if key is not None]
    return ["Your keys, shown this once (only their hashes are stored):", *lines, ""] if lines else []
