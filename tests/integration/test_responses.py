"""OpenAI's Responses API and stored completions work over the chat API's records, by OpenAI's client."""

import json
from typing import Any

import openai
import pytest

from tests.service import ADMIN, PUBLIC, Service, events

TOOL: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


@pytest.fixture
def client(service: Service) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key=ADMIN, max_retries=0)


def test_a_response_is_a_completion_in_other_words(service: Service, client: openai.OpenAI) -> None:
    response = client.responses.create(
        model="default", input="Tea?", instructions="Be kind.", max_output_tokens=8, temperature=0, user="ada"
    )
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert response.output_text
    assert response.usage.output_tokens == 8
    turn = response.model_extra["hearken"]["turn_id"]
    assert response.id == "resp_" + turn.removeprefix("chatcmpl-")
    [(messages, text)] = service.rows(
        "select messages, text from turns join replies on turn_id = id where id = %s", turn
    )
    assert messages == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Tea?"}]
    assert text == response.output_text
    assert service.chat("Tea?", max_tokens=8)["choices"][0]["message"]["content"]


def test_a_streamed_response_is_the_whole_one(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "default", "input": "Tea?", "max_output_tokens": 12, "temperature": 0}
    asked["include"] = ["message.output_text.logprobs"]
    whole = client.responses.create(**asked)
    found: list[Any] = list(client.responses.create(**asked, stream=True))
    last = found[-1].response
    kinds = [event.type for event in found]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert [event.sequence_number for event in found] == list(range(len(found)))
    text = "".join(event.delta for event in found if event.type == "response.output_text.delta")
    assert text == last.output_text == whole.output_text
    streamed, alone = last.output[0].content[0].logprobs, whole.output[0].content[0].logprobs
    assert [each.token for each in streamed] == [each.token for each in alone] != []


def test_a_tool_is_called_and_its_result_is_read(service: Service, client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "default", "tools": [TOOL], "max_output_tokens": 190, "temperature": 0}
    for stream in (False, True):
        first: Any = client.responses.create(**asked, input="Tea?", tool_choice="required", stream=stream)
        if stream:
            first = list(first)[-1].response
        call = first.output[0]
        assert (call.type, call.name) == ("function_call", "weather")
        assert json.loads(call.arguments)["city"] in ("Paris", "Rome")
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}
    second = client.responses.create(
        model="default", input=[{"role": "user", "content": "Tea?"}, call, result], max_output_tokens=2
    )
    [(messages,)] = service.rows(
        "select messages from turns where id = %s", second.model_extra["hearken"]["turn_id"]
    )
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert messages[1]["tool_calls"][0]["id"] == messages[2]["tool_call_id"] == call.call_id


def test_a_conversation_goes_on_from_a_response(service: Service, client: openai.OpenAI) -> None:
    first = client.responses.create(
        model="default", input="Tea?", instructions="Be kind.", max_output_tokens=4, temperature=0
    )
    second = client.responses.create(
        model="default", input="And now?", previous_response_id=first.id, max_output_tokens=4
    )
    [(messages,)] = service.rows(
        "select messages from turns where id = %s", second.model_extra["hearken"]["turn_id"]
    )
    said = [(message["role"], message["content"]) for message in messages]
    assert said == [("user", "Tea?"), ("assistant", first.output_text), ("user", "And now?")]
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="default", input="x", previous_response_id="resp_nothing")
    visitor = openai.OpenAI(base_url=f"{service.url}/v1", api_key=PUBLIC, max_retries=0)
    assert visitor.responses.create(model="default", input="Tea?", max_output_tokens=1).output
    with pytest.raises(openai.PermissionDeniedError):
        visitor.responses.create(model="default", input="x", previous_response_id=first.id)


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({}, "missing_required_parameter", "input"),
        ({"input": []}, "invalid_value", "input"),
        ({"input": "x", "background": True}, "unsupported_parameter", "background"),
        ({"input": "x", "tools": [{"type": "web_search"}]}, "unsupported_parameter", "tools[0]"),
        ({"input": [{"type": "item_reference", "id": "1"}]}, "unsupported_parameter", "input[0]"),
        ({"input": "x", "reasoning": {"effort": "low"}}, "unsupported_parameter", "reasoning_effort"),
        ({"input": "x", "max_output_tokens": 0}, "invalid_value", "max_tokens"),
        ({"input": "x", "mood": 1}, "unknown_parameter", "mood"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(service: Service, fields: dict[str, Any], code: str, param: str) -> None:
    with service.client() as client:
        error = client.post("/v1/responses", json=fields).json()["error"]
    assert (error["code"], error["param"]) == (code, param)


def test_an_error_in_a_stream_is_an_event(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.streams.KEEP_ALIVE_SECONDS", 0.0)
    body = {"input": "tea " * 2_000, "stream": True}
    with service.client() as client, client.stream("POST", "/v1/responses", json=body) as response:
        [error] = list(events(response))
    assert (error["type"], error["code"]) == ("error", "context_length_exceeded")


def test_stored_completions_are_read_tagged_and_deleted(service: Service, client: openai.OpenAI) -> None:
    stored = client.chat.completions
    made = [
        stored.create(
            model="default",
            messages=[{"role": "user", "content": f"Tea {number}?"}],
            max_tokens=2,
            metadata={"batch": "stored", "number": str(number % 2), "conversation_id": f"c{number}"},
        )
        for number in range(5)
    ]
    page = stored.list(metadata={"batch": "stored"}, limit=2)
    assert page.has_next_page()
    assert [each.id for each in page] == [each.id for each in made]
    newest = stored.list(metadata={"batch": "stored", "number": "1"}, order="desc")
    assert [each.id for each in newest] == [made[3].id, made[1].id]

    found = stored.retrieve(made[0].id)
    assert found.choices[0].message.content == made[0].choices[0].message.content
    assert found.usage.total_tokens == made[0].usage.total_tokens
    assert [message.content for message in stored.messages.list(made[0].id)] == ["Tea 0?"]

    tagged = stored.update(made[0].id, metadata={"batch": "kept"})
    assert tagged.metadata == {"batch": "kept", "conversation_id": "c0"}
    vote = {"completion_id": made[0].id, "type": "thumb", "value": "up"}
    with service.client() as http:
        assert http.post("/v1/feedback", json=vote).status_code == 201
    assert stored.delete(made[0].id).deleted
    with pytest.raises(openai.NotFoundError):
        stored.retrieve(made[0].id)
    with pytest.raises(openai.NotFoundError):
        stored.delete(made[0].id)
    assert service.rows("select from feedback where turn_id = %s", made[0].id) == []

    visitor = openai.OpenAI(base_url=f"{service.url}/v1", api_key=PUBLIC, max_retries=0)
    with pytest.raises(openai.PermissionDeniedError):
        visitor.chat.completions.retrieve(made[1].id)


def test_a_completion_with_tools_is_stored_whole(service: Service, client: openai.OpenAI) -> None:
    tool = {"type": "function", "function": {name: TOOL[name] for name in TOOL if name != "type"}}
    made = service.chat("Tea?", tools=[tool], tool_choice="required", max_tokens=190, temperature=0)
    found = client.chat.completions.retrieve(made["id"])
    assert found.choices[0].finish_reason == "tool_calls"
    calls = [call.model_dump() for call in found.choices[0].message.tool_calls or []]
    assert calls == made["choices"][0]["message"]["tool_calls"]
    assert found.model_extra["tools"] == [tool]
