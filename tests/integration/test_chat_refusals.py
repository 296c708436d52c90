"""A wrong request gets the documented error in the envelope, stores nothing, and is counted."""

import json
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from schemas.settings import VllmSettings
from serving import limits
from serving.auth import SESSION_HEADER
from tests.service import ADMIN, PUBLIC, Service, run_api

ASK = [{"role": "user", "content": "Hello"}]
CHAT = "/v1/chat/completions"


def refused(service: Service, response: httpx.Response) -> tuple[int, str, str | None]:
    """Status, code and param of an error; sees that it is in the envelope, and counted."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert "Traceback" not in response.text
    assert service.counted("hearken_requests_refused_total", code=error["code"]) > 0
    return response.status_code, error["code"], error["param"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b'{"messages": [', "invalid_json"),
        (b'{"temperature": NaN}', "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"seed": ' + b"9" * 5_000 + b"}", "invalid_json"),
        (b'{"messages": "\xff\xfe"}', "invalid_json"),
        (b'{"messages": [{"role": "user", "content": "half \\ud83d"}]}', "invalid_text"),
        (b'{"messages": [{"role": "user", "content": "nul \\u0000"}]}', "invalid_text"),
        (b"[]", "invalid_value"),
        (b'"hello"', "invalid_value"),
    ],
)
def test_a_body_that_is_not_a_request(service: Service, body: bytes, code: str) -> None:
    with service.client() as client:
        response = client.post(CHAT, content=body, headers={"Content-Type": "application/json"})
    assert refused(service, response)[:2] == (400, code)


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"messages": None}, "missing_required_parameter", "messages"),
        ({"messages": []}, "invalid_value", "messages"),
        ({"messages": "Hello"}, "invalid_value", "messages"),
        ({"messages": ["Hello"]}, "invalid_value", "messages[0]"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "invalid_value", "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "missing_required_parameter", "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "invalid_value", "messages[0].content"),
        ({"messages": [*ASK, {"role": "tool", "content": "x"}]}, "invalid_value", "messages[1]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "unsupported_parameter",
            "messages",
        ),
        ({"messages": [{"role": "user", "content": "tea " * 2_000}]}, "context_length_exceeded", "messages"),
        ({"max_tokens": 100_000}, "context_length_exceeded", "messages"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"max_tokens": "8"}, "invalid_value", "max_tokens"),
        ({"max_tokens": 8, "max_completion_tokens": 9}, "invalid_value", "max_completion_tokens"),
        ({"n": 0}, "invalid_value", "n"),
        ({"n": 9}, "invalid_value", "n"),
        ({"n": True}, "invalid_value", "n"),
        ({"compare": 0.6}, "invalid_value", "compare"),
        ({"compare": "often"}, "invalid_value", "compare"),
        ({"temperature": 3}, "invalid_value", "temperature"),
        ({"temperature": 1e999}, "invalid_json", None),
        ({"top_p": 0}, "invalid_value", "top_p"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "invalid_value", "stop"),
        ({"stop": ["a", ""]}, "invalid_value", "stop[1]"),
        ({"seed": 2**70}, "invalid_value", "seed"),
        ({"top_logprobs": 2}, "invalid_value", None),
        ({"logprobs": True, "top_logprobs": 21}, "invalid_value", "top_logprobs"),
        ({"metadata": {"conversation_id": ""}}, "invalid_value", "metadata"),
        ({"metadata": {"a": 1}}, "invalid_value", "metadata.a"),
        ({"user": 7}, "invalid_value", "user"),
        ({"tools": [{"type": "function"}]}, "missing_required_parameter", "tools[0].function"),
        ({"response_format": {"type": "json"}}, "invalid_value", "response_format.type"),
        ({"functions": [{}]}, "missing_required_parameter", "functions[0].name"),
        ({"reasoning_effort": "low"}, "unsupported_parameter", "reasoning_effort"),
        ({"min_tokens": 4}, "unsupported_parameter", "min_tokens"),
        ({"tempreature": 1}, "unknown_parameter", "tempreature"),
    ],
)
def test_a_field_that_is_wrong(
    service: Service, fields: dict[str, Any], code: str, param: str | None
) -> None:
    before = service.rows("select count(*) from turns")
    content = json.dumps({"messages": ASK, **fields}).encode()
    with service.client() as client:
        response = client.post(CHAT, content=content)
    assert refused(service, response) == (400, code, param)
    assert service.rows("select count(*) from turns") == before


TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"pattern": "(a+)+"}}}
FOR_SERVERS: list[dict[str, Any]] = [
    {"tools": [TOOL]}, {"functions": [TOOL["function"]]}, {"structured_outputs": {"regex": "(a+)+"}},
    {"response_format": SCHEMA}, {"mm_processor_kwargs": {"size": 9}}, {"media_io_kwargs": {"video": {}}},
    {"chat_template_kwargs": {"x": 1}}, {"documents": [{"text": "x"}]}, {"continue_final_message": True},
    {"logit_bias": {"1": 1}}, {"bad_words": ["x"]}, {"ignore_eos": True}, {"min_tokens": 9},
]  # fmt: skip


def test_what_a_publishable_key_may_not_send(service: Service) -> None:
    with service.client(PUBLIC) as client:
        for fields in FOR_SERVERS:
            response = client.post(CHAT, json={"messages": ASK, **fields})
            assert refused(service, response) == (403, "parameter_not_allowed", *fields)
        formed = {"input": "Hello", "text": {"format": {"type": "json_schema", **SCHEMA["json_schema"]}}}
        response = client.post("/v1/responses", json=formed)
        assert refused(service, response) == (403, "parameter_not_allowed", "response_format")
        allowed: dict[str, Any] = {
            "model": "default", "n": 2, "stop": ["x"], "seed": 1, "temperature": 0.5, "top_p": 0.9,
            "max_tokens": 4, "presence_penalty": 0.1, "frequency_penalty": 0.1, "top_k": 9, "min_p": 0.1,
            "repetition_penalty": 1.1, "logprobs": True, "top_logprobs": 1, "store": False,
            "response_format": {"type": "json_object"}, "tools": [], "tool_choice": "auto",
        }  # fmt: skip
        assert client.post(CHAT, json={"messages": ASK, **allowed}).status_code == 200


def test_null_values_are_accepted(service: Service) -> None:
    nothing = {"tools": [], "response_format": {"type": "text"}, "logit_bias": {}, "seed": None}
    assert service.chat(**nothing, service_tier="auto", parallel_tool_calls=True)["choices"]


def test_a_body_over_the_limit(service: Service) -> None:
    large = b'{"messages": "' + b"x" * 2_000_000 + b'"}'

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(large), 65_536):
            yield large[start : start + 65_536]

    with service.client() as client:
        assert refused(service, client.post(CHAT, content=large))[:2] == (413, "body_too_large")
        assert refused(service, client.post(CHAT, content=pieces()))[:2] == (413, "body_too_large")


def test_keys(service: Service) -> None:
    with service.client(None) as client:
        assert refused(service, client.post(CHAT, json={"messages": ASK}))[:2] == (401, "invalid_api_key")
        for header in ("Bearer sk-hearken-wrong", "Bearer", "Basic abc", "sk"):
            wrong = client.post(CHAT, json={"messages": ASK}, headers={"Authorization": header})
            assert refused(service, wrong)[:2] == (401, "invalid_api_key")
            assert wrong.headers["www-authenticate"] == "Bearer"
    with service.client(PUBLIC) as client:
        for path in ("/v1/policies", "/v1/policies/p0", "/v1/rollouts", "/v1/rounds"):
            assert refused(service, client.get(path))[:2] == (403, "forbidden")


def test_unknown_addresses_and_methods(service: Service) -> None:
    with service.client() as client:
        assert refused(service, client.get("/v1/nothing"))[:2] == (404, "not_found")
        assert refused(service, client.get("/v1/responses"))[:2] == (405, "method_not_allowed")
        assert client.get("/v1/responses").headers["allow"] == "POST"
        assert refused(service, client.get("/v1/policies/p0%00"))[:2] == (400, "invalid_text")
        assert refused(service, client.get("/v1/policies?limit=many"))[:2] == (400, "invalid_value")
        assert refused(service, client.get("/v1/policies/p77"))[:2] == (404, "policy_not_found")
        assert refused(service, client.get("/static/../app.py"))[:2] == (404, "not_found")


def test_more_requests_than_a_key_may_make(service: Service) -> None:
    serving = service.settings.serving.model_copy(update={"requests_per_minute": 2})
    with run_api(service.settings.model_copy(update={"serving": serving})) as (url, _):
        answers = [
            httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {PUBLIC}"}) for _ in "123"
        ]
        assert answers[2].status_code == 429
        assert answers[2].json()["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(answers[2].headers["retry-after"]) <= 30
        assert httpx.get(f"{url}/healthz").status_code == 200


def test_one_visitors_flood_leaves_the_others_alone(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(limits, "time", SimpleNamespace(monotonic=lambda: now))  # no bucket refills
    serving = service.settings.serving.model_copy(
        update={"requests_per_minute": 60, "address_requests_per_minute": 20, "user_requests_per_minute": 5}
    )
    works: list[dict[str, Any]] = [
        {"method": "GET", "url": "/v1/models"},
        {"method": "POST", "url": CHAT, "json": {}},
        {"method": "POST", "url": "/v1/feedback", "json": {}},
    ]
    with (
        run_api(service.settings.model_copy(update={"serving": serving})) as (url, _),
        httpx.Client(base_url=url) as client,
    ):

        def refusals(key: str, address: str, count: int, session: str | None = None, **work: Any) -> int:
            headers = {"Authorization": f"Bearer {key}", "X-Forwarded-For": address}
            if session is not None:
                headers[SESSION_HEADER] = session
            statuses = [client.request(**work, headers=headers).status_code for _ in range(count)]
            return statuses.count(429)

        service.until(lambda: client.get("/readyz").status_code == 200)
        for work in works:
            assert refusals(PUBLIC, "192.0.2.1", 80, **work) == 60
            assert refusals(PUBLIC, "192.0.2.2", 20, **work) == 0
            assert refusals(ADMIN, "192.0.2.1", 60, **work) == 0
            assert refusals(ADMIN, "192.0.2.1", 1, **work) == 1
        batch = {"method": "POST", "url": "/v1/feedback/batch", "json": {"feedback": [{}] * 20}}
        assert refusals(PUBLIC, "192.0.2.3", 2, **batch) == 1  # its items are votes
        ask = {"messages": ASK, "n": 3, "max_tokens": 1}
        chat = {"method": "POST", "url": CHAT, "json": ask}
        one, other = (
            client.post("/v1/sessions", headers={"Authorization": f"Bearer {PUBLIC}"}).json()["token"]
            for _ in range(2)
        )
        assert refusals(PUBLIC, "192.0.2.4", 2, one, **chat) == 1
        assert refusals(PUBLIC, "192.0.2.4", 1, other, **chat) == 0


def test_guesses_of_keys_are_limited_by_address_and_leave_known_keys_alone(service: Service) -> None:
    serving = service.settings.serving.model_copy(update={"address_requests_per_minute": 3})
    with run_api(service.settings.model_copy(update={"serving": serving})) as (url, _):

        def ask(key: str) -> httpx.Response:
            return httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"})

        service.until(lambda: httpx.get(f"{url}/readyz").status_code == 200)
        assert ask(PUBLIC).status_code == 200
        answers = [ask(f"sk-hearken-guess-{number}") for number in range(4)]
        assert [answer.status_code for answer in answers] == [401, 401, 429, 429]
        assert 1 <= int(answers[2].headers["retry-after"]) <= 20
        assert ask(PUBLIC).status_code == 200


def test_without_an_engine_the_client_is_told_to_retry(service: Service) -> None:
    nowhere = VllmSettings(urls=["http://127.0.0.1:9"])
    with run_api(service.settings.model_copy(update={"vllm": nowhere})) as (url, _):
        answer = httpx.post(
            f"{url}{CHAT}", json={"messages": ASK}, headers={"Authorization": f"Bearer {PUBLIC}"}
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_engine")
        assert int(answer.headers["retry-after"]) >= 1
        assert httpx.get(f"{url}/readyz").json()["checks"]["engine"] is False
