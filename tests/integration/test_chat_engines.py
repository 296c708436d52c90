"""Engines that die: before a reply, in the middle of one, and what comes back afterwards."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import new_database
from tests.contract.engines import free_port
from tests.service import Service, events, run_service

ASK = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}

LOGPROBS = re.compile(rb'"logprobs": ?{"content": ?\[.*?}\]}')


class EngineProcess:
    """An engine that can be killed and started again at the same address."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        where = ["--model", str(self._base), "--port", str(self._port)]
        self._process = subprocess.Popen([sys.executable, "-m", "serving.embedded", *where])

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def engines(tiny_base: Path) -> Iterator[list[EngineProcess]]:
    both = [EngineProcess(tiny_base), EngineProcess(tiny_base)]
    yield both
    for engine in both:
        engine.kill()


@pytest.fixture(scope="module")
def fleet(
    postgres_url: str,
    engines: list[EngineProcess],
    tiny_base: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """A service over two engines, with p1 live on both."""
    urls = [engine.url for engine in engines]
    directory = tmp_path_factory.mktemp("fleet")
    with (
        new_database(postgres_url) as url,
        run_service(url, directory, tiny_base, engines=urls) as service,
    ):
        service.until(lambda: len(service.app.state.fleet.healthy) == 2, seconds=60)
        service.registry.publish("p1-aaaaaa", seed=1)
        service.until(lambda: proved(service) == [True, True])
        service.until(lambda: service.chat(max_tokens=1)["system_fingerprint"] == "p1-aaaaaa")
        yield service


def proved(service: Service) -> list[bool]:
    return ["p1-aaaaaa" in replica.proved for replica in service.app.state.fleet.replicas]


@contextmanager
def forgetting(engine: str) -> Iterator[str]:
    """In front of an engine, what forgets a log-probability of each reply; its url."""

    class Forgetting(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.pass_on("GET", b"")

        def do_POST(self) -> None:
            self.pass_on("POST", self.rfile.read(int(self.headers["Content-Length"])))

        def pass_on(self, method: str, body: bytes) -> None:
            kind = {"Content-Type": "application/json"}
            answer = httpx.request(method, engine + self.path, content=body, headers=kind, timeout=60)
            content = answer.content
            if self.path == "/v1/chat/completions":
                content = LOGPROBS.sub(b'"logprobs":null', content, count=1)
            self.send_response(answer.status_code)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Forgetting) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def test_a_reply_without_all_its_logprobs_is_none(
    postgres_url: str, engine: str, tiny_base: Path, tmp_path: Path
) -> None:
    with (
        forgetting(engine) as short,
        new_database(postgres_url) as url,
        run_service(url, tmp_path, tiny_base, engines=[short]) as service,
        service.client() as client,
    ):
        body = {**ASK, "max_tokens": 8, "temperature": 0}
        whole = client.post("/v1/chat/completions", json=body)
        assert (whole.status_code, whole.json()["error"]["code"]) == (503, "engine_failed")
        with client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as response:
            *chunks, last = events(response)
        assert last["error"]["code"] == "engine_failed"
        assert not any("hearken" in chunk for chunk in chunks)
        assert service.rows("select from turns") == []


def test_engines_that_die(fleet: Service, engines: list[EngineProcess]) -> None:
    engines[0].kill()
    for _ in range(4):  # an idle dead engine is asked first, and the reply comes from the other one
        assert fleet.chat()["system_fingerprint"] == "p1-aaaaaa"

    [before] = fleet.rows("select count(*) from turns")
    body = {**ASK, "max_tokens": 200, "temperature": 0, "stream": True}
    with fleet.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as response:
        chunks = events(response)
        assert next(chunks)["system_fingerprint"] == "p1-aaaaaa"
        engines[1].kill()
        last = list(chunks)[-1]
    assert last["error"]["code"] == "engine_failed"
    assert fleet.rows("select count(*) from turns") == [before]

    with fleet.client() as client:
        refused = client.post("/v1/chat/completions", json=ASK)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_engine")
        assert int(refused.headers["retry-after"]) >= 1
        fleet.until(lambda: client.get("/readyz").status_code == 503)

    engines[0].start()
    fleet.until(lambda: proved(fleet) == [True, False], seconds=60)
    assert fleet.chat()["system_fingerprint"] == "p1-aaaaaa"
    assert httpx.get(f"{fleet.url}/readyz").status_code == 200
