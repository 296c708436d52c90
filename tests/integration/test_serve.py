"""`hearken serve` shuts down gracefully, and takes client addresses from trusted proxies."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from deploy.local.ports import free_port
from tests.conftest import new_database
from tests.service import ADMIN, PUBLIC, Service, events, run_service

GRACE = 10.0
"""Seconds for a stream to end."""

LONG = {
    "messages": [{"role": "user", "content": "Tell me everything"}],
    "max_tokens": 200,
    "n": 4,
    "temperature": 0,
}


@pytest.fixture(scope="module")
def beside(
    postgres_url: str, engine: str, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """Yields a service whose database and engine another process uses."""
    with (
        new_database(postgres_url) as url,
        run_service(url, tmp_path_factory.mktemp("serve"), tiny_base, engines=[engine]) as service,
    ):
        yield service


@contextmanager
def serving(beside: Service, **more: str) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """Yields the process, ready, and a client of it."""
    settings, port = beside.settings, free_port()
    environment = {
        **os.environ,
        "HEARKEN_DATABASE_URL": settings.database_url or "",
        "HEARKEN_DATA_DIR": str(settings.data_dir),
        "HEARKEN_MODEL": settings.model,
        "HEARKEN_VLLM__URLS": f'["{settings.vllm.urls[0]}"]',
        "HEARKEN_ADMIN_KEY": ADMIN,
        "HEARKEN_PUBLIC_KEY": PUBLIC,
        "HEARKEN_PORT": str(port),
        **more,
    }
    process = subprocess.Popen([sys.executable, "-m", "deploy.cli", "serve"], env=environment)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            client.headers["Authorization"] = f"Bearer {ADMIN}"
            beside.until(lambda: ready(client), seconds=60)
            yield process, client
    finally:
        process.kill()
        process.wait()


def ready(client: httpx.Client) -> bool:
    with suppress(httpx.TransportError):
        return client.get("/readyz").status_code == 200
    return False


def reachable(client: httpx.Client) -> bool:
    """Returns whether it accepts new connections; at its end, waiting ones are reset."""
    with suppress(httpx.NetworkError):
        httpx.get(f"{client.base_url}/healthz")
        return True
    return False


def engine_of(beside: Service) -> psutil.Process:
    port = beside.settings.vllm.urls[0].rsplit(":", 1)[1]
    [process] = [
        child for child in psutil.Process().children() if {"serving.embedded", port} <= set(child.cmdline())
    ]
    return process


@contextmanager
def engine_paused(beside: Service) -> Iterator[None]:
    """Suspends the engine, which continues after the block."""
    process = engine_of(beside)
    process.suspend()
    try:
        yield
    finally:
        process.resume()


@contextmanager
def engine_slowed(beside: Service) -> Iterator[None]:
    """Lets the engine run for five moments in ten seconds: a token in each says that it is alive, and a
    reply of 200 tokens takes longer."""
    process, done = engine_of(beside), threading.Event()

    def slow() -> None:
        while not done.is_set():
            process.suspend()
            done.wait(2.0)
            process.resume()
            done.wait(0.02)

    slowing = threading.Thread(target=slow)
    slowing.start()
    try:
        yield
    finally:
        done.set()
        slowing.join()


def test_a_stream_finishes_after_sigterm(beside: Service) -> None:
    with serving(beside) as (process, client):
        with client.stream("POST", "/v1/chat/completions", json={**LONG, "stream": True}) as response:
            chunks = events(response)
            begun = next(chunks)
            with engine_paused(beside):
                process.send_signal(signal.SIGTERM)
                beside.until(lambda: not reachable(client), seconds=8)
            last = list(chunks)[-1]
        assert last["hearken"]["turn_id"] == begun["id"]
        assert beside.rows("select count(*) from replies where turn_id = %s", begun["id"]) == [(4,)]
        assert process.wait(15) == 0


def until(socket: ClientConnection, kind: str) -> dict[str, Any]:
    """Returns the next frame of that type."""
    while True:
        frame: dict[str, Any] = json.loads(socket.recv(timeout=10))
        if frame["type"] == kind:
            return frame


def test_a_chat_on_a_websocket_finishes_after_sigterm(beside: Service) -> None:
    with (
        serving(beside) as (process, client),
        connect(str(client.base_url).replace("http", "ws") + "/v1/live") as socket,
    ):
        socket.send(json.dumps({"type": "auth", "key": ADMIN}))
        socket.send(json.dumps({"type": "chat", "id": "a", **LONG}))
        until(socket, "token")
        with engine_paused(beside):
            process.send_signal(signal.SIGTERM)
            beside.until(lambda: not reachable(client), seconds=8)
        turn = until(socket, "done")["completion"]["id"]
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=15)
        assert beside.rows("select count(*) from replies where turn_id = %s", turn) == [(4,)]
        assert process.wait(15) == 0


def test_a_stream_that_lasts_longer_leaves_nothing(beside: Service) -> None:
    with (
        serving(beside) as (process, client),
        client.stream("POST", "/v1/chat/completions", json={**LONG, "n": 8, "stream": True}) as response,
    ):
        chunks = events(response)
        begun = next(chunks)
        with engine_slowed(beside):
            process.send_signal(signal.SIGTERM)
            told = time.monotonic()
            with suppress(httpx.RemoteProtocolError):
                assert not any("hearken" in chunk for chunk in chunks)
            assert process.wait(GRACE + 5) == 0
            assert time.monotonic() - told > GRACE - 1
        assert beside.rows("select from turns where id = %s", begun["id"]) == []
        assert beside.rows("select from replies where turn_id = %s", begun["id"]) == []


@pytest.mark.parametrize(("trusted", "counted"), [('["127.0.0.0/8"]', 2), ("[]", 1)])
def test_a_request_without_a_key_counts_for_its_address(beside: Service, trusted: str, counted: int) -> None:
    """A balancer names two addresses; each may send one request a minute."""
    limits = {
        "HEARKEN_SERVING__TRUSTED_PROXIES": trusted,
        "HEARKEN_SERVING__ADDRESS_REQUESTS_PER_MINUTE": "1",
    }
    with serving(beside, **limits) as (_, client):
        del client.headers["Authorization"]
        answers = [
            client.get("/v1/feedback/fb_1", headers={"X-Forwarded-For": address}).status_code
            for address in ("192.0.2.1", "192.0.2.2", "192.0.2.1")
        ]
    assert answers == [401] * counted + [429] * (3 - counted)
