"""A stream has a deadline and keep-alives; what many ask for is computed once."""

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from serving import shared_result, streams
from serving.shared_result import SharedResult


async def test_a_client_that_stops_reading_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "WRITE_SECONDS", 0.05)
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)
        if message["type"] == "stalls":
            await asyncio.Event().wait()

    bounded = streams.with_deadline(send)
    await bounded({"type": "reads"})
    with pytest.raises(TimeoutError):
        await bounded({"type": "stalls"})
    assert len(sent) == 2


async def test_many_share_one_computation() -> None:
    begun, go_on = 0, asyncio.Event()

    async def compute() -> int:
        nonlocal begun
        begun += 1
        await go_on.wait()
        if begun == 2:
            raise ValueError("the second fails")
        return begun

    shared = SharedResult(compute)
    waiting = [asyncio.create_task(shared.get()) for _ in range(5)]
    await asyncio.sleep(0)
    waiting[0].cancel()  # who leaves takes nothing from the others
    go_on.set()
    assert await asyncio.gather(*waiting[1:]) == [1] * 4
    failing = await asyncio.gather(shared.get(), shared.get(), return_exceptions=True)
    assert [str(error) for error in failing] == ["the second fails"] * 2
    assert await shared.get() == 3


async def test_a_result_is_kept_for_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, now = 0, 100.0
    monkeypatch.setattr(shared_result, "time", SimpleNamespace(monotonic=lambda: now))

    async def compute() -> int:
        nonlocal begun
        begun += 1
        return begun

    shared = SharedResult(compute, seconds=5)
    assert [await shared.get() for _ in range(3)] == [1, 1, 1]
    now += 5
    assert await shared.get() == 2


async def test_a_closed_connection_is_a_client_that_left() -> None:
    async def closed(message: Message) -> None:
        raise RuntimeError("the handler is closed")

    with pytest.raises(ClientDisconnect):
        await streams.with_deadline(closed)({"type": "http.response.body", "body": b""})


async def test_events_of_an_engine_are_sent_whole() -> None:
    async def torn() -> AsyncGenerator[bytes]:
        for piece in (b'data: {"a"', b': 1}\n\ndata: {"b": 2}\n', b"\ndata: [DO", b"NE]\n\n", b"data: cut"):
            yield piece

    assert [events async for events in streams.whole_events(torn())] == [
        b'data: {"a": 1}\n\n', b'data: {"b": 2}\n\n', b"data: [DONE]\n\n", b"data: cut",
    ]  # fmt: skip


async def test_what_is_sent_whole_ends_with_its_client() -> None:
    ended = asyncio.Event()
    sent: list[Message] = []

    async def pieces() -> AsyncGenerator[bytes]:
        try:
            yield b"{"
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    async with asyncio.timeout(5):
        await streams.WholeResponse(pieces())({"type": "http"}, receive, send)
    assert ended.is_set()
    assert not sent
