"""Engines that die: before a reply, in the middle of one, and what comes back afterwards."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import new_database
from tests.contract.engines import free_port
from tests.service import Service, events, run_service

ASK = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}


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
