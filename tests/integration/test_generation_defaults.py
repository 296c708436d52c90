"""People are served by the base's own generation defaults where their request names none, over HTTP and the
websocket, and the turn records the values."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from schemas.generation_defaults import FILE
from tests.conftest import new_database
from tests.service import ADMIN, Service, events, run_service

ASK = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 16}
NARROW = {"do_sample": True, "temperature": 0.7, "top_p": 1e-6, "top_k": 40}
"""Defaults by which every reply is the greedy one."""


@pytest.fixture(scope="module")
def narrow(
    postgres_url: str, engine: str, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service over a base with `NARROW` as its defaults. Its engine runs on a copy without any."""
    directory = tmp_path_factory.mktemp("narrow")
    base = Path(shutil.copytree(tiny_base, directory / "base"))
    (base / FILE).write_text(json.dumps({**json.loads((base / FILE).read_text()), **NARROW}))
    with (
        new_database(postgres_url) as url,
        run_service(url, directory, base, engines=[engine]) as service,
    ):
        yield service


@pytest.fixture(scope="module")
def greedy(narrow: Service) -> str:
    return text(ask(narrow, temperature=0))


def ask(service: Service, **fields: Any) -> dict[str, Any]:
    with service.client(ADMIN) as client:
        response = client.post("/v1/chat/completions", json={**ASK, **fields})
    assert response.status_code == 200, response.text
    completion: dict[str, Any] = response.json()
    return completion


def text(completion: dict[str, Any], choice: int = 0) -> str:
    return str(completion["choices"][choice]["message"]["content"])


def recorded(service: Service, completion: dict[str, Any]) -> dict[str, Any]:
    [(sampling,)] = service.rows("select sampling from turns where id = %s", completion["id"])
    return dict(sampling)


def test_a_request_that_names_nothing(narrow: Service, greedy: str) -> None:
    completion = ask(narrow, n=3)
    assert [text(completion, choice) for choice in range(3)] == [greedy] * 3
    assert recorded(narrow, completion).items() >= {"temperature": 0.7, "top_p": 1e-6, "top_k": 40}.items()


def test_a_stream(narrow: Service, greedy: str) -> None:
    with (
        narrow.client(ADMIN) as client,
        client.stream("POST", "/v1/chat/completions", json={**ASK, "stream": True}) as response,
    ):
        deltas = [event["choices"][0]["delta"] for event in events(response) if event["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == greedy


def test_a_websocket(narrow: Service, greedy: str) -> None:
    with connect(narrow.url.replace("http", "ws") + "/v1/live") as socket:
        socket.send(json.dumps({"type": "auth", "key": ADMIN}))
        socket.send(json.dumps({"type": "chat", "id": "a", "n": 2, **ASK}))
        while (frame := json.loads(socket.recv(timeout=20)))["type"] != "done":
            assert frame["type"] != "error", frame
    assert [text(frame["completion"], choice) for choice in range(2)] == [greedy] * 2
    assert recorded(narrow, frame["completion"])["top_p"] == 1e-6


def test_what_a_request_names_comes_first(narrow: Service, greedy: str) -> None:
    completion = ask(narrow, temperature=1.5, top_p=1, seed=5)
    assert text(completion) != greedy
    assert recorded(narrow, completion).items() >= {"temperature": 1.5, "top_p": 1.0, "top_k": 40}.items()
