"""OpenAI's Responses API and stored completions work over the chat API's records, by OpenAI's client."""

import json
from typing import Any

import openai
import pytest

from tests.service import ADMIN, PUBLIC, Service, events
from tests.tools import WEATHER

TOOL: dict[str, Any] = {"type": "function", **WEATHER["function"]}


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


def said(service: Service, response: Any) -> list[tuple[str, str]]:
    """Returns the roles and contents of the messages that were answered."""
    turn = response.model_extra["hearken"]["turn_id"]
    [(messages,)] = service.rows("select messages from turns where id = %s", turn)
    return [(message["role"], message["content"]) for message in messages]


def test_a_stored_response_is_as_it_was_answered(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "default",
        "instructions": "Be kind.",
        "metadata": {"batch": "responses"},
        "tools": [TOOL],
        "tool_choice": {"type": "function", "name": "weather"},
        "text": {"format": {"type": "json_object"}},
        "max_output_tokens": 190,
        "temperature": 0,
    }
    first = client.responses.create(**asked, input="Tea?")
    streamed = list(client.responses.create(**asked, input="Tea?", stream=True))[-1].response
    result = {"type": "function_call_output", "call_id": first.output[0].call_id, "output": "Rain."}
    pinned = client.responses.create(
        model="p0", input=[result], previous_response_id=first.id, max_output_tokens=4, temperature=0
    )
    for answered in (first, streamed, pinned):
        assert client.responses.retrieve(answered.id).to_dict() == answered.to_dict()

    items = client.responses.input_items.list(pinned.id, order="asc", limit=2)
    assert items.has_next_page()
    found = list(items)
    assert [item.type for item in found] == ["message", "function_call", "function_call_output"]
    assert len({item.id for item in found}) == 3
    assert (found[0].role, found[0].content[0].text) == ("user", "Tea?")
    assert found[1].arguments == first.output[0].arguments
    assert (found[2].call_id, found[2].output) == (result["call_id"], "Rain.")
    newest_first = [item.id for item in client.responses.input_items.list(pinned.id)]
    assert newest_first == [item.id for item in reversed(found)]


def test_a_deleted_response_is_gone(service: Service, client: openai.OpenAI) -> None:
    made = client.responses.create(model="default", input="Tea?", max_output_tokens=1)
    visitor = openai.OpenAI(base_url=f"{service.url}/v1", api_key=PUBLIC, max_retries=0)
    for call in (visitor.responses.retrieve, visitor.responses.delete, visitor.responses.input_items.list):
        with pytest.raises(openai.PermissionDeniedError):
            call(made.id)
    with pytest.raises(openai.BadRequestError):
        client.responses.retrieve(made.id, stream=True)
    client.responses.delete(made.id)
    for call in (client.responses.retrieve, client.responses.delete, client.responses.input_items.list):
        with pytest.raises(openai.NotFoundError, match="no stored response"):
            call(made.id)
    unstored = client.responses.create(model="default", input="Tea?", max_output_tokens=1, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(unstored.id)


def test_the_projects_prompt_is_there_once_in_its_present_form(
    service: Service, client: openai.OpenAI
) -> None:
    def use_prompt(text: str | None) -> None:
        service.rows("update projects set system_prompt = %s returning 1", text)
        service.until(lambda: service.services.router.route("default").system_prompt == text)

    asked: dict[str, Any] = {"model": "default", "max_output_tokens": 1, "temperature": 0}
    try:
        use_prompt("Be brief.")
        first = client.responses.create(**asked, input="Tea?")
        use_prompt("Be long.")
        second = client.responses.create(**asked, input="Now?", previous_response_id=first.id)
        instructed = client.responses.create(
            **asked, input="Now?", instructions="Be kind.", previous_response_id=first.id
        )
        third = client.responses.create(**asked, input="So?", previous_response_id=instructed.id)
    finally:
        use_prompt(None)
    begin = [("user", "Tea?"), ("assistant", first.output_text), ("user", "Now?")]
    assert said(service, first) == [("system", "Be brief."), ("user", "Tea?")]
    assert said(service, second) == [("system", "Be long."), *begin]
    assert said(service, instructed) == [("system", "Be kind."), *begin]
    assert said(service, third)[:-2] == [("system", "Be long."), *begin]
    items = client.responses.input_items.list(second.id, order="asc")
    assert [item.role for item in items] == ["user", "assistant", "user"]


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
    with pytest.raises(openai.NotFoundError):
        stored.list(after=made[0].id)
    assert service.rows("select from feedback where turn_id = %s", made[0].id) == []

    visitor = openai.OpenAI(base_url=f"{service.url}/v1", api_key=PUBLIC, max_retries=0)
    with pytest.raises(openai.PermissionDeniedError):
        visitor.chat.completions.retrieve(made[1].id)


def test_a_completion_with_tools_is_stored_whole(service: Service, client: openai.OpenAI) -> None:
    made = service.chat("Tea?", tools=[WEATHER], tool_choice="required", max_tokens=190, temperature=0)
    found = client.chat.completions.retrieve(made["id"])
    assert found.choices[0].finish_reason == "tool_calls"
    calls = [call.model_dump() for call in found.choices[0].message.tool_calls or []]
    assert calls == made["choices"][0]["message"]["tool_calls"]
    assert found.model_extra["tools"] == [WEATHER]
