"""Raw completions and embeddings pass through to engines that have them, for servers only. What vLLM
does with them is in tests/e2e/test_vllm.py."""

import pytest

from tests.service import ADMIN, PUBLIC, Service


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
def test_an_engine_without_them_says_so(service: Service, path: str) -> None:
    with service.client() as client:
        answer = client.post(path, json={"model": "default", "prompt": "Hello", "input": "Hello"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert f"the embedded engine does not serve {path}" in answer.json()["error"]["message"]


def test_replies_are_bounded(service: Service) -> None:
    with service.client() as client:
        answer = client.post("/v1/completions", json={"prompt": "Hello", "n": 1_000})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")


@pytest.mark.parametrize(
    ("path", "field", "most"), [("completions", "prompt", 128), ("embeddings", "input", 2_048)]
)
def test_prompts_are_bounded(service: Service, path: str, field: str, most: int) -> None:
    with service.client() as client:
        full = client.post(f"/v1/{path}", json={field: ["Hello"] * most})
        over = client.post(f"/v1/{path}", json={field: ["Hello"] * (most + 1)})
    assert full.status_code == 404  # the engine's own answer
    assert (over.status_code, over.json()["error"]["param"]) == (400, field)


@pytest.mark.parametrize(
    "asked", [{"prompt_logprobs": 0}, {"echo": True, "logprobs": 0}, {"prompt_embeds": "x"}]
)
def test_what_can_crash_an_engine_is_refused(service: Service, asked: dict[str, object]) -> None:
    with service.client() as client:
        answer = client.post("/v1/completions", json={"prompt": "Hello", **asked})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_parameter")


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
@pytest.mark.parametrize(("key", "body", "status"), [(PUBLIC, {}, 403), (ADMIN, [], 400), (None, {}, 401)])
def test_who_may_not(service: Service, path: str, key: str | None, body: object, status: int) -> None:
    with service.client(key) as client:
        assert client.post(path, json=body).status_code == status
