"""`hearken up --engine vllm`: chat, votes and a swap on vLLM's server, which may be killed like any other."""

import time
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from tests import faults
from tests.installation import Installation, wait

SETTINGS = {
    "HEARKEN_ENGINE__KIND": "vllm",
    "HEARKEN_VLLM__EAGER": "true",
    "HEARKEN_TRAINER__ROUND_VOTES": "20",
    "HEARKEN_TRAINER__MIN_VOTES": "20",
    "HEARKEN_TRAINER__RL__STEPS_PER_ROUND": "2",
    "HEARKEN_TRAINER__RL__SAMPLER": "vllm",
    "HEARKEN_SERVING__BASE_SHARE": "0",
}


def chat(installation: Installation, **fields: Any) -> dict[str, Any]:
    body = {"model": "default", "messages": [{"role": "user", "content": "Hello!"}], **fields}
    with installation.client() as client:
        answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def refusal(installation: Installation, **fields: Any) -> dict[str, Any]:
    body = {"model": "default", "messages": [{"role": "user", "content": "Hello!"}], **fields}
    with installation.client() as client:
        answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400, answer.text
    found: dict[str, Any] = answer.json()["error"]
    return found


@pytest.mark.timeout(600)
@pytest.mark.parametrize("killed", [False, pytest.param(True, marks=pytest.mark.full)])
def test_the_loop_turns_on_vllm(tmp_path: Path, tiny_base: Path, killed: bool) -> None:
    """If `killed`, vLLM's server dies afterwards, with all its processes, and the service is ready again."""
    settings = {**SETTINGS, **faults.QUICK_ROUNDS, "HEARKEN_MODEL": str(tiny_base)}
    with Installation(tmp_path, **settings) as installation:
        reply = chat(installation, logprobs=True, seed=3)
        assert reply["system_fingerprint"] == "p0"
        with psycopg.connect(installation.database_url()) as connection:
            rows = connection.execute(
                "select token_ids, logprobs, finish_reason from replies where turn_id = %s", [reply["id"]]
            ).fetchall()
        (token_ids, logprobs, finish_reason) = rows[0]
        assert len(token_ids) == len(logprobs) == reply["usage"]["completion_tokens"]
        shown = [item["logprob"] for item in reply["choices"][0]["logprobs"]["content"]]
        assert logprobs == pytest.approx(shown, abs=1e-6)  # kept in single precision
        assert finish_reason == reply["choices"][0]["finish_reason"]

        raw = {"prompt": "The cat", "max_tokens": 5, "temperature": 0}
        with installation.client() as client:
            streamed = client.post("/v1/completions", json={**raw, "stream": True})
            pinned = client.post(
                "/v1/completions",
                json={**raw, "model": "p0", "prompt": ["A", "B"], "n": 2, "temperature": 1, "logprobs": 1},
            )
            wrong = client.post("/v1/completions", json={**raw, "max_tokens": -1})
            assert client.post("/v1/completions", json={**raw, "model": "p9-abcdef"}).status_code == 404
            assert client.post("/v1/embeddings", json={"input": "The cat"}).status_code == 404
        assert streamed.status_code == 200, streamed.text
        assert streamed.text.rstrip().endswith("data: [DONE]")
        assert pinned.status_code == 200, pinned.text
        choices = pinned.json()["choices"]
        assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
        assert pinned.json()["usage"]["completion_tokens"] == sum(
            len(choice["logprobs"]["tokens"]) for choice in choices
        )
        assert all(choice["finish_reason"] for choice in choices)
        assert (wrong.status_code, set(wrong.json()["error"])) == (400, {"message", "type", "param", "code"})

        for too_many in (1_024, 100_000):
            refused = refusal(installation, max_tokens=too_many)
            assert refused["code"] == "context_length_exceeded", refused

        installation.pass_every_candidate()
        policy = faults.policies_after(installation, tmp_path)
        wait(lambda: chat(installation)["system_fingerprint"] != "p0", f"{policy} or a later one is live")

        if not killed:
            return
        engine = installation.find("engine")
        assert engine is not None
        family = [engine, *engine.children(recursive=True)]
        assert len(family) > 1
        installation.kill("engine")
        began = time.monotonic()
        wait(lambda: not installation.ready(), "the loss is noticed")
        installation.wait_until_ready(90)
        assert chat(installation)["system_fingerprint"] != "p0"
        assert time.monotonic() - began < 90
        _, alive = psutil.wait_procs(family, timeout=5)
        assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
