"""/v1/chat/completions works over real sockets and a real engine process."""

import json
import socket
from typing import Any

import pytest
import structlog

from tests.service import ADMIN, CONTEXT, PUBLIC, Service, events

ASK = [{"role": "user", "content": "What is the capital of France?"}]


def stream(service: Service, **fields: Any) -> list[dict[str, Any]]:
    """The chunks of a streamed reply, of 8 tokens and the likeliest unless `fields` say otherwise."""
    body = {"messages": ASK, "max_tokens": 8, "temperature": 0, "stream": True, **fields}
    with service.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(events(response))


def said(chunks: list[dict[str, Any]], choice: int = 0) -> str:
    deltas = [found for chunk in chunks for found in chunk["choices"] if found["index"] == choice]
    return "".join(found["delta"].get("content", "") for found in deltas)


def turns(service: Service) -> int:
    return int(service.rows("select count(*) from turns")[0][0])


def test_a_reply_has_its_policy_and_its_feedback_token(service: Service) -> None:
    completion = service.chat("Hello there", n=2)
    assert completion["object"] == "chat.completion"
    assert completion["system_fingerprint"] == "p0"
    assert [choice["index"] for choice in completion["choices"]] == [0, 1]
    hearken = completion["hearken"]
    assert hearken["turn_id"] == completion["id"]
    assert hearken["policies"] == ["p0", "p0"]
    assert hearken["conversation_id"].startswith("conv-")
    assert service.services.signer.verify(completion["id"], hearken["feedback_token"])


def test_a_stream_equals_the_whole_response(service: Service) -> None:
    whole = service.chat(ASK[0]["content"])
    chunks = stream(service)
    assert said(chunks) == whole["choices"][0]["message"]["content"]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks if "hearken" in chunk] == ["length"]


def test_the_turn_is_stored_before_the_last_chunk(service: Service) -> None:
    last = stream(service, n=2)[-1]
    assert last["hearken"]["policies"] == ["p0", "p0"]
    assert service.rows("select count(*) from replies where turn_id = %s", last["id"]) == [(2,)]


def test_usage_comes_at_the_end_of_a_stream_when_asked_for(service: Service) -> None:
    chunks = stream(service, stream_options={"include_usage": True})
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 8
    assert chunks[-1]["hearken"] == chunks[-2]["hearken"]


def test_a_turn_is_stored_exactly_as_it_was_sampled(service: Service) -> None:
    completion = service.chat(
        "Hello there",
        user="ada",
        seed=7,
        temperature=0.01,
        metadata={"conversation_id": "c-9", "page": "home"},
    )
    [(rater, messages, prompt, sampling, metadata)] = service.rows(
        "select rater, messages, prompt_token_ids, sampling, metadata from turns where id = %s",
        completion["id"],
    )
    assert rater == service.services.signer.rater_id("default", "ada", "admin")
    claimed = service.chat("Hello there", user="ada", key=PUBLIC)
    assert service.rows("select rater from turns where id = %s", claimed["id"]) != [(rater,)]
    assert messages == [{"role": "user", "content": "Hello there"}]
    assert len(prompt) == completion["usage"]["prompt_tokens"]
    assert sampling == {
        "n": 1,
        "temperature": 0.01,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "max_tokens": 8,
        "stop": [],
        "seed": 7,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }
    assert metadata == {"conversation_id": "c-9", "page": "home"}
    [(policy, propensity, text, tokens, logprobs, finish)] = service.rows(
        "select policy, propensity, text, token_ids, logprobs, finish_reason from replies where turn_id = %s",
        completion["id"],
    )
    assert (policy, propensity, finish) == ("p0", 1.0, "length")
    assert text == completion["choices"][0]["message"]["content"]
    assert len(tokens) == len(logprobs) == completion["usage"]["completion_tokens"] == 8
    assert all(logprob < 0 for logprob in logprobs)


def test_logprobs_are_the_samplers_own(service: Service) -> None:
    completion = service.chat(logprobs=True, top_logprobs=3)
    items = completion["choices"][0]["logprobs"]["content"]
    assert len(items) == 8
    assert all(len(item["top_logprobs"]) == 3 for item in items)
    assert all(item["logprob"] == item["top_logprobs"][0]["logprob"] for item in items)
    [(stored,)] = service.rows("select logprobs from replies where turn_id = %s", completion["id"])
    assert stored == pytest.approx([item["logprob"] for item in items], abs=1e-4)
    assert service.chat()["choices"][0]["logprobs"] is None


def test_a_seed_repeats_a_reply(service: Service) -> None:
    first, again, other = (service.chat(seed=seed, max_tokens=20, temperature=1) for seed in (3, 3, 4))
    assert first["choices"] == again["choices"]
    assert first["choices"] != other["choices"]


def test_a_stop_string_ends_a_reply(service: Service) -> None:
    text = service.chat(max_tokens=30)["choices"][0]["message"]["content"]
    stop = text[8:10]
    choice = service.chat(max_tokens=30, stop=stop)["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"] == text[: text.index(stop)]


def test_a_reply_without_a_length_gets_what_the_context_has_left(service: Service) -> None:
    long = "tea " * 60
    completion = service.chat(long, max_tokens=None)
    used = completion["usage"]["prompt_tokens"] + completion["usage"]["completion_tokens"]
    assert used <= CONTEXT
    [(sampling,)] = service.rows("select sampling from turns where id = %s", completion["id"])
    assert sampling["max_tokens"] is None


def test_a_conversation_keeps_its_id_and_its_rater(service: Service) -> None:
    first = service.chat("Hello")
    name = first["hearken"]["conversation_id"]
    second = service.chat("And now?", metadata={"conversation_id": name})
    assert second["hearken"]["conversation_id"] == name
    assert service.rows(
        "select count(*), count(distinct rater) from turns where conversation_id = %s", name
    ) == [(2, 1)]


def test_an_unstored_reply_leaves_nothing(service: Service) -> None:
    before = turns(service)
    completion = service.chat(store=False)
    assert completion["id"].startswith("chatcmpl-nostore-")
    assert completion["hearken"]["feedback_token"] is None
    assert turns(service) == before


def test_the_projects_system_prompt_comes_first_unless_the_messages_bring_one(service: Service) -> None:
    service.rows("update projects set system_prompt = 'Be brief.' returning 1")
    try:
        service.until(lambda: service.services.router.route("default").system_prompt == "Be brief.")
        own = service.chat("Hello")
        theirs = service.chat(messages=[{"role": "developer", "content": "Be long."}, *ASK])
    finally:
        service.rows("update projects set system_prompt = null returning 1")
    [(messages,)] = service.rows("select messages from turns where id = %s", own["id"])
    assert messages[0] == {"role": "system", "content": "Be brief."}
    [(messages,)] = service.rows("select messages from turns where id = %s", theirs["id"])
    assert messages == [{"role": "system", "content": "Be long."}, *ASK]


def test_only_an_admin_may_choose_a_policy(service: Service) -> None:
    assert service.chat(model="p0")["model"] == "p0"
    with service.client(PUBLIC) as client:
        refused = client.post("/v1/chat/completions", json={"messages": ASK, "model": "p0"})
        unknown = client.post("/v1/chat/completions", json={"messages": ASK, "model": "gpt-4"})
        listed = client.get("/v1/models").json()["data"]
    assert refused.status_code == 403
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    assert [card["id"] for card in listed] == ["default"]
    with service.client() as client:
        assert [card["id"] for card in client.get("/v1/models").json()["data"]] == ["default", "p0"]
        assert client.get("/v1/models/p0").json()["owned_by"] == "hearken"
        assert client.get("/v1/models/p9-abcdef").status_code == 404


@pytest.mark.parametrize("streaming", [True, False])
def test_a_client_that_disconnects_stops_its_generation(service: Service, streaming: bool) -> None:
    body = {"messages": ASK, "max_tokens": 200, "n": 8, "temperature": 0, "stream": streaming}
    address = service.url.removeprefix("http://").split(":")
    content = json.dumps(body).encode()
    in_flight = service.services.metrics.requests_in_flight._value.get
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ADMIN}\r\n"
    for _ in range(5):  # on a busy machine the tiny engine may have ended before its client leaves
        before = turns(service)
        with socket.create_connection((address[0], int(address[1]))) as connection:
            connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            service.until(lambda: in_flight() == 1)  # asked of the process: /metrics may come too late
        service.until(lambda: in_flight() == 0)
        if turns(service) == before:
            return
    pytest.fail("each reply was recorded, though its client had left")


def test_no_log_has_the_text_of_people(service: Service) -> None:
    # Not by capturing standard output: to swap it while the service's thread prints can crash CPython.
    with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as entries:
        completion = service.chat("my secret is aubergine", user="ada-lovelace")
        service.until(lambda: completion["id"] in repr(entries))  # it is logged after the reply has left
        logged = repr(entries)
    assert "aubergine" not in logged
    assert "lovelace" not in logged


def test_it_is_ready_and_has_metrics(service: Service) -> None:
    with service.client(None) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/readyz").json()["checks"] == {"database": True, "engine": True, "policy": True}
        assert 'hearken_live_policy{policy="p0",project="default"} 1.0' in client.get("/metrics").text
        assert client.get("/config.json").json() == {
            "publishable_key": PUBLIC, "real_model_command": None
        }  # fmt: skip


def test_pages_of_other_origins_may_chat_but_not_administrate(service: Service) -> None:
    preflight = {
        "Origin": "https://shop.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type, x-stainless-lang",
    }
    with service.client(None) as client:
        assert client.options("/v1/chat/completions", headers=preflight).status_code == 200
        assert client.options("/v1/rollouts", headers=preflight).status_code == 405
    with service.client(ADMIN) as client:
        reply = client.get("/v1/models", headers={"Origin": "https://shop.example"})
        assert reply.headers["access-control-allow-origin"] == "*"
