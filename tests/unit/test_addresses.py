"""Host names of engine URLs resolve to one engine for each address."""

import asyncio
import socket
from typing import Any

import pytest

from schemas.addresses import resolve

ADDRESSES = {"vllm": ["10.0.0.2", "10.0.0.1", "10.0.0.2"], "six": ["fd00::1"]}


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(_: Any, host: str, port: int, **__: Any) -> list[Any]:
        if host not in ADDRESSES:
            raise socket.gaierror("no such name")
        return [(0, 0, 0, "", (address, port)) for address in ADDRESSES[host]]

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize(
    ("urls", "engines"),
    [
        (["http://127.0.0.1:8001/", "http://[::1]:8001"], ["http://127.0.0.1:8001", "http://[::1]:8001"]),
        (["http://localhost:8001"], ["http://localhost:8001"]),
        (["http://vllm:8000"], ["http://10.0.0.1:8000", "http://10.0.0.2:8000"]),
        (["http://vllm"], ["http://10.0.0.1", "http://10.0.0.2"]),
        (["http://six:8000"], ["http://[fd00::1]:8000"]),
        (["https://vllm:8000"], ["https://vllm:8000"]),
        (["http://vllm:8000", "http://10.0.0.2:8000"], ["http://10.0.0.1:8000", "http://10.0.0.2:8000"]),
        (["http://nowhere:8000", "http://10.0.0.9:1"], ["http://10.0.0.9:1"]),
    ],
)
async def test_a_name_is_as_many_engines_as_it_has_addresses(urls: list[str], engines: list[str]) -> None:
    assert await resolve(urls) == engines
