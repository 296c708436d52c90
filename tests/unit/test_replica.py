"""A replica is marked down at once where nothing listens, and never while its tokens arrive."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from schemas.errors import EngineError, Unavailable
from serving.engine import EngineClient
from serving.fleet import Fleet
from serving.replica import Replica

SILENT = ""
ILL = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


@asynccontextmanager
async def engine(says: str) -> AsyncIterator[Replica]:
    """Yields a healthy replica whose engine answers every request with `says`."""

    ended: list[asyncio.Task[None] | None] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.append(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(says.encode())
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        replica = known(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        yield replica
        await replica.engine.close()
        await asyncio.gather(*filter(None, ended))


def known(url: str) -> Replica:
    replica = Replica(EngineClient(url, timeout=60))
    replica.healthy = True
    replica.loaded = {"p0"}
    replica.verified = {"p0"}
    return replica


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.replica._HEALTH_TIMEOUT", 0.1)


async def test_a_refused_connection_marks_down_at_once_and_voids_verification() -> None:
    """Otherwise an engine that restarted, and where another process loaded adapters, would seem verified."""
    replica = known("http://127.0.0.1:9")
    assert not await replica.health_check()
    assert not replica.healthy
    assert replica.verified == set()
    await replica.engine.close()


@pytest.mark.parametrize("says", [SILENT, ILL])
async def test_a_failed_health_check_marks_down_at_the_second_time(says: str) -> None:
    async with engine(says) as replica:
        await replica.health_check()
        assert replica.in_rotation
        await replica.health_check()
        assert not replica.healthy
        assert replica.verified == set()


async def test_an_engine_without_a_token_in_time_must_be_verified_again() -> None:
    """Its health check may still pass."""
    async with engine(SILENT) as replica:
        replica.engine = EngineClient(replica.engine.url, timeout=0.2)
        fleet = Fleet([], 1)
        fleet.replicas = [replica]
        with pytest.raises(Unavailable):
            await anext(fleet.stream("p0", "conv", [], {"n": 1}))
        assert not fleet.serves("p0")


async def test_an_engine_that_refuses_connections_may_finish_its_replies() -> None:
    async with engine(SILENT) as replica:
        waiting = asyncio.create_task(replica.engine.adapters())
        await asyncio.sleep(0.05)
        await replica.mark_down(EngineError("refused", url=replica.engine.url, gone=True))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await replica.engine.close()
        with pytest.raises(EngineError):
            await waiting


async def test_an_engine_whose_tokens_arrive_is_not_marked_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.replica._ASK_INTERVAL", 0.0)
    async with engine(SILENT) as replica:
        for _ in range(4):
            looking = asyncio.create_task(replica.health_check())
            await asyncio.sleep(0.05)
            replica.last_token = time.monotonic()
            assert not await looking
            assert replica.in_rotation


async def test_a_busy_engine_is_not_asked_each_time() -> None:
    async with engine(SILENT) as replica:
        assert not await replica.health_check()
        replica.last_token = time.monotonic()
        assert await replica.health_check()
        assert not await replica.health_check(), "no token came since"
