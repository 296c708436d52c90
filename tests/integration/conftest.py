"""One service for all tests that leave its policies alone; others start their own with `run_service`."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from schemas.database import migrate
from tests.contract.engines import start_embedded
from tests.service import Service, run_service, write_base


@contextmanager
def new_database(postgres_url: str) -> Iterator[str]:
    """A fresh, migrated database, for fixtures that outlive a test."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f'create database "{name}"'.encode())
    base, _, query = postgres_url.partition("?")
    url = base.rsplit("/", 1)[0] + f"/{name}" + (f"?{query}" if query else "")
    migrate(url)
    yield url
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f'drop database "{name}" with (force)'.encode())


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def engine(tiny_base: Path) -> Iterator[str]:
    """An engine process over `tiny_base`, with room for six adapters and none loaded."""
    yield from start_embedded(tiny_base, "--max-loras", "6")


@pytest.fixture(scope="session")
def service(
    postgres_url: str, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The API, its engine process and p0. Keys: tests.service.ADMIN and PUBLIC."""
    with (
        new_database(postgres_url) as url,
        run_service(url, tmp_path_factory.mktemp("service"), tiny_base) as running,
    ):
        yield running
