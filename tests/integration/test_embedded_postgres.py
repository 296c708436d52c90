"""The embedded Postgres restarts after being killed at any point."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from deploy.local.postgres import SOCKET_LOCK, EmbeddedPostgres


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    found = EmbeddedPostgres(tmp_path / "postgres")
    yield found
    found.stop()
    assert not found.running(), "a restarted server is stopped too"


def kill(postgres: EmbeddedPostgres) -> Path:
    """Kills the server; returns its pid file."""
    file = postgres.directory / "postmaster.pid"
    os.kill(int(file.read_text().split()[0]), signal.SIGKILL)
    until(lambda: not postgres.running())
    return file


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def restarted(postgres: EmbeddedPostgres) -> bool:
    """Restarts a dead server; returns whether it runs. A child of a killed one may live a little longer."""
    if not postgres.running():
        postgres.restart()
    return postgres.running()


def recovers(postgres: EmbeddedPostgres, url: str) -> bool:
    """Returns whether it answers, restarted as often as `hearken up` would."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        restarted(postgres)
        try:
            with psycopg.connect(url, connect_timeout=2) as connection:
                return connection.execute("select count(*) from kept").fetchone() == (1,)
        except psycopg.OperationalError:
            time.sleep(0.25)
    return False


@pytest.mark.parametrize("left", ["all", "cut short", "empty", "another's", "nothing"])
def test_it_restarts_whatever_its_pid_file_says(postgres: EmbeddedPostgres, left: str) -> None:
    url = postgres.start()
    with psycopg.connect(url) as connection:
        connection.execute("create table kept as select 1")
    file = kill(postgres)
    lines = file.read_text().splitlines()
    with subprocess.Popen(["sleep", "60"]) as somebody:
        match left:
            case "cut short":
                file.write_text("\n".join(lines[:7]) + "\n")
            case "empty":
                file.write_text("")
            case "another's":
                file.write_text("\n".join([str(somebody.pid), *lines[1:]]) + "\n")
            case "nothing":
                file.unlink()
        assert recovers(postgres, url)
        somebody.kill()


def test_a_zombie_holds_no_lock(postgres: EmbeddedPostgres) -> None:
    """In a container without an init, a killed server may never be reaped."""
    url = postgres.start()
    with psycopg.connect(url) as connection:
        connection.execute("create table kept as select 1")
    kill(postgres)
    with subprocess.Popen(["true"]) as zombie:
        until(lambda: psutil.Process(zombie.pid).status() == psutil.STATUS_ZOMBIE)
        for file in (postgres.directory / "postmaster.pid", postgres.socket_directory() / SOCKET_LOCK):
            lines = file.read_text().splitlines()
            file.write_text("\n".join([str(zombie.pid), *lines[1:]]) + "\n")
        with psycopg.connect(EmbeddedPostgres(postgres.directory).start()) as connection:
            assert connection.execute("select count(*) from kept").fetchone() == (1,)


def test_it_starts_at_once_after_all_of_it_was_killed(postgres: EmbeddedPostgres) -> None:
    for _ in range(3):
        url = EmbeddedPostgres(postgres.directory).start()
        with psycopg.connect(url) as connection:
            connection.execute("create table if not exists kept as select 1")
        server = psutil.Process(int((postgres.directory / "postmaster.pid").read_text().split()[0]))
        for process in [server, *server.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):  # a child of a killed server may have ended itself
                process.kill()
    with psycopg.connect(postgres.start()) as connection:
        assert connection.execute("select count(*) from kept").fetchone() == (1,)


def test_it_restarts_after_being_killed_while_starting(postgres: EmbeddedPostgres) -> None:
    url = postgres.start()
    with psycopg.connect(url) as connection:
        connection.execute("create table kept as select 1")
    for pause in (0.0, 0.003, 0.01, 0.03, 0.1):
        with suppress(FileNotFoundError, ProcessLookupError):  # a predecessor still runs
            kill(postgres)
        until(lambda: restarted(postgres))
        time.sleep(pause)
    assert recovers(postgres, url)
