"""Engines may hang, die or run another base, before a reply and in the middle of one."""

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM

from deploy.local.ports import free_port
from serving.fleet import rank_replicas
from tests.conftest import new_database
from tests.service import Service, events, policy_of_adapter, run_service, write_base

FOUND_LOST = 15.0  # seconds for two looks, on a machine that may be busy
LIVE = "p3-cccccc"  # after the engines that hang
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

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

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
        service.until(lambda: len(service.services.fleet.healthy) == 2, seconds=60)
        service.registry.publish("p1-aaaaaa", seed=1)
        service.until(lambda: verified(service) == [True, True])
        service.until(lambda: service.chat(max_tokens=1)["system_fingerprint"] == "p1-aaaaaa")
        yield service


def verified(service: Service, policy: str = "p1-aaaaaa") -> list[bool]:
    return [policy in map(policy_of_adapter, replica.verified) for replica in service.services.fleet.replicas]


def of_its_own(service: Service, engine: EngineProcess) -> dict[str, str]:
    """The metadata of a conversation that goes to `engine` first."""
    replicas = service.services.fleet.replicas
    names = (f"conv-{number}" for number in range(100))
    return {
        "conversation_id": next(
            name for name in names if rank_replicas(replicas, name)[0].engine.url == engine.url
        )
    }


def test_an_engine_that_hangs(fleet: Service, engines: list[EngineProcess]) -> None:
    """Requests without a token move to the other engine, those with tokens get an error, policies change."""
    metadata = of_its_own(fleet, engines[0])
    body = {**ASK, "max_tokens": 200, "temperature": 0, "stream": True, "metadata": metadata}
    with fleet.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as response:
        chunks = events(response)
        assert next(chunks)["system_fingerprint"] == "p1-aaaaaa"
        engines[0].pause()
        begun = time.monotonic()
        assert fleet.chat(metadata=metadata)["system_fingerprint"] == "p1-aaaaaa"
        last = list(chunks)[-1]
        assert time.monotonic() - begun < FOUND_LOST
    assert last["error"]["code"] == "engine_failed"

    fleet.registry.publish("p2-bbbbbb", seed=2, parent="p1-aaaaaa")
    fleet.until(lambda: fleet.live() == "p2-bbbbbb", seconds=FOUND_LOST)
    assert verified(fleet, "p2-bbbbbb") == [False, True]
    engines[0].resume()
    fleet.until(lambda: verified(fleet, "p2-bbbbbb") == [True, True])
    fleet.until(lambda: verified(fleet) == [True, True])


def test_an_engine_that_hangs_while_a_policy_is_loaded(fleet: Service, engines: list[EngineProcess]) -> None:
    engines[0].pause()
    fleet.registry.publish("p3-cccccc", seed=3, parent="p2-bbbbbb")
    fleet.until(lambda: fleet.routed() == "p3-cccccc", seconds=FOUND_LOST)
    assert fleet.chat(max_tokens=1)["system_fingerprint"] == "p3-cccccc"
    engines[0].resume()
    fleet.until(lambda: verified(fleet, "p3-cccccc") == [True, True])


def test_an_engine_that_fails_where_another_passes_answers_nobody(
    postgres_url: str, engine: str, tiny_base: Path, tmp_path: Path
) -> None:
    """It runs another base with the same layers, so it loads every adapter and answers differently."""
    base = write_base(tmp_path / "other")
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.3)
    model.save_pretrained(base)
    wrong = EngineProcess(base)
    try:
        with (
            new_database(postgres_url) as url,
            run_service(url, tmp_path, tiny_base, engines=[engine, wrong.url]) as service,
        ):
            service.until(lambda: len(service.services.fleet.healthy) == 2, seconds=60)
            service.until(lambda: service.counted("hearken_engines_in_rotation") == 1)
            service.registry.publish("p7-eeeeee", seed=7)
            service.until(lambda: service.routed() == "p7-eeeeee")
            replies = [service.chat(metadata=of_its_own(service, wrong)) for _ in range(4)]
            assert {reply["system_fingerprint"] for reply in replies} == {"p7-eeeeee"}
            assert [replica.engine.url for replica in service.services.fleet.in_rotation] == [engine]
            assert len({reply["choices"][0]["message"]["content"] for reply in replies}) == 1
    finally:
        wrong.kill()


@contextmanager
def forgetting(engine: str) -> Iterator[str]:
    """Yields the URL of a proxy that drops one log-probability of each reply."""

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


@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_without_all_its_logprobs_is_an_error(
    postgres_url: str, engine: str, tiny_base: Path, tmp_path: Path, stream: bool
) -> None:
    body = {**ASK, "max_tokens": 8, "temperature": 0, "stream": stream}
    with (
        forgetting(engine) as short,
        new_database(postgres_url) as url,
        run_service(url, tmp_path, tiny_base, engines=[short]) as service,
        service.client() as client,
    ):
        refused = client.post("/v1/chat/completions", json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_engine")
        assert service.rows("select from turns") == []


def test_another_engine_gives_all_logprobs_where_one_does_not(
    postgres_url: str, engine: str, tiny_base: Path, tmp_path: Path
) -> None:
    with (
        forgetting(engine) as short,
        new_database(postgres_url) as url,
        run_service(url, tmp_path, tiny_base, engines=[short, engine]) as service,
    ):
        service.until(lambda: verified(service, "p0") == [True, True])
        replicas = service.services.fleet.replicas
        names = [f"conv-{number}" for number in range(20)]
        asked = [name for name in names if rank_replicas(replicas, name)[0].engine.url == short]
        assert asked
        for name in asked:
            service.chat(max_tokens=8, metadata={"conversation_id": name})
        whole = service.rows("select cardinality(token_ids) = cardinality(logprobs) from replies")
        assert whole == [(True,)] * len(asked)


def test_engines_that_die(fleet: Service, engines: list[EngineProcess]) -> None:
    engines[0].kill()
    for _ in range(4):  # an idle dead engine is asked first, and the reply comes from the other one
        assert fleet.chat()["system_fingerprint"] == LIVE

    [before] = fleet.rows("select count(*) from turns")
    body = {**ASK, "max_tokens": 200, "temperature": 0, "stream": True}
    with fleet.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as response:
        chunks = events(response)
        assert next(chunks)["system_fingerprint"] == LIVE
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
    fleet.until(lambda: verified(fleet, LIVE) == [True, False], seconds=60)
    assert fleet.chat()["system_fingerprint"] == LIVE
    assert httpx.get(f"{fleet.url}/readyz").status_code == 200
