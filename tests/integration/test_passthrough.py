"""Raw completions and embeddings pass through to the engine, for servers only, and nothing is recorded."""

import pytest

from tests.service import ADMIN, PUBLIC, Service

PROMPT = {"prompt": [5, 9, 17], "max_tokens": 3, "temperature": 0}


def test_a_raw_prompt_is_completed_by_the_live_policy_and_not_recorded(service: Service) -> None:
    before = service.rows("select count(*) from turns")
    with service.client() as client:
        answers = [
            client.post("/v1/completions", json={**PROMPT, **model})
            for model in ({}, {"model": "default"}, {"model": "p0"})
        ]
        assert [answer.status_code for answer in answers] == [200] * 3
        [texts] = {answer.json()["choices"][0]["text"] for answer in answers}
        assert texts
        assert client.post("/v1/completions", json={**PROMPT, "model": "p9-abcdef"}).status_code == 404
        wrong = client.post("/v1/completions", json={**PROMPT, "max_tokens": 0})
        assert wrong.status_code == 400
        assert set(wrong.json()["error"]) == {"message", "type", "param", "code"}
    assert service.rows("select count(*) from turns") == before


def test_an_engine_without_embeddings_says_so(service: Service) -> None:
    with service.client() as client:
        answer = client.post("/v1/embeddings", json={"model": "default", "input": "Hello"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert "the embedded engine does not serve /v1/embeddings" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
@pytest.mark.parametrize(("key", "body", "status"), [(PUBLIC, {}, 403), (ADMIN, [], 400), (None, {}, 401)])
def test_who_may_not(service: Service, path: str, key: str | None, body: object, status: int) -> None:
    with service.client(key) as client:
        assert client.post(path, json=body).status_code == status
