"""Chat requests are validated as OpenAI's. tests/integration/test_chat_refusals.py covers the responses."""

from typing import Any

import pytest

from schemas.chat import ChatRequest, parse_chat
from schemas.errors import InvalidRequest
from schemas.generation_defaults import GenerationDefaults
from schemas.users import MAX_NAME
from schemas.wire import decode, path

ASK = [{"role": "user", "content": "Hello"}]


def test_the_defaults_are_openais() -> None:
    request = parse_chat({"messages": ASK})
    assert (request.model, request.n, request.stream, request.store) == ("default", 1, False, True)
    assert request.sampling(256, GenerationDefaults()) == {
        "n": 1,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "max_tokens": 256,
        "stop": [],
        "seed": None,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }


def test_both_names_of_the_length_and_both_shapes_of_stop() -> None:
    assert parse_chat({"messages": ASK, "max_completion_tokens": 7}).max_tokens == 7
    assert parse_chat({"messages": ASK, "max_tokens": 7, "max_completion_tokens": 7}).max_tokens == 7
    assert parse_chat({"messages": ASK, "stop": "."}).stop == ["."]
    assert parse_chat({"messages": ASK, "stop": [".", "!"]}).stop == [".", "!"]


def test_a_user_has_as_long_a_name_as_in_votes_and_sessions() -> None:
    assert parse_chat({"messages": ASK, "user": "u" * MAX_NAME}).user == "u" * MAX_NAME
    with pytest.raises(InvalidRequest, match="user"):
        parse_chat({"messages": ASK, "user": "u" * (MAX_NAME + 1)})


def messages_of(*given: Any) -> list[dict[str, Any]]:
    request = parse_chat({"messages": list(given)})
    return [message.model_dump(exclude_none=True) for message in request.messages]


def test_messages_become_roles_and_text() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert messages_of(
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": parts, "name": "ada"},
        {"role": "assistant", "content": "", "refusal": None, "tool_calls": None, "audio": None},
        {"role": "user", "content": ""},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "assistant", "content": None, "refusal": "Never."},
    ) == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "one\ntwo", "name": "ada"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": ""},
        {"role": "assistant", "content": "No."},
        {"role": "assistant", "content": "Never."},
    ]


def test_an_empty_system_message_says_nothing() -> None:
    assert messages_of({"role": "system", "content": ""}, *ASK) == ASK
    assert messages_of({"role": "system", "content": ""}) == [{"role": "system", "content": ""}]


CALL = {"id": "call_1", "type": "function", "function": {"name": "time", "arguments": "{}"}}


def test_a_history_with_tool_calls_is_kept() -> None:
    history = [
        {"role": "assistant", "tool_calls": [CALL], "reasoning_content": "Which time?"},
        {"role": "tool", "tool_call_id": "call_1", "content": "Noon."},
    ]
    assert messages_of(*ASK, *history) == [*ASK, *history]
    echoed = {**history[0], "content": None, "tool_calls": [{**CALL, "index": 0}], "annotations": []}
    assert messages_of(*ASK, echoed) == [*ASK, history[0]]
    assert messages_of({"role": "assistant", "reasoning": "Hm.", "content": "Yes"}) == [
        {"role": "assistant", "reasoning_content": "Hm.", "content": "Yes"}
    ]


def test_the_former_form_of_tool_calls_is_read() -> None:
    former = [
        {"role": "assistant", "content": None, "function_call": {"name": "time", "arguments": "{}"}},
        {"role": "function", "name": "time", "content": "Noon."},
    ]
    assert messages_of(*former) == [
        {"role": "assistant", "tool_calls": [{**CALL, "id": "time"}]},
        {"role": "tool", "name": "time", "tool_call_id": "time", "content": "Noon."},
    ]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": None}, "messages[0].content"),
        ({"role": "tool", "content": "x"}, "messages[0]"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "messages[0]"),
        ({"role": "user", "content": [{"type": "sonnet"}]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages[0].content[0].image_url"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "messages[0].tool_calls[0].function"),
        ({"role": "assistant", "mood": "good"}, "messages[0].mood"),
    ],
)
def test_a_message_that_is_wrong_is_named(message: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_chat({"messages": [message]})
    assert refused.value.param == param


def test_parts_that_are_not_text_are_kept() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    parts = [{"type": "text", "text": "What is this?"}, picture]
    request = parse_chat({"messages": [{"role": "user", "content": parts}]})
    assert request.messages[0].content == parts
    assert request.media == [picture]


def test_null_means_not_given() -> None:
    names = [*ChatRequest.model_fields, "functions", "max_completion_tokens"]
    request = parse_chat({**dict.fromkeys(names), "messages": ASK})
    assert request == parse_chat({"messages": ASK})
    inside = {"metadata": {"page": None}, "response_format": {"type": "text", "json_schema": None}}
    assert parse_chat({"messages": ASK, **inside}).metadata == {}


TOOL = {"type": "function", "function": {"name": "time", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": []},
        {"functions": [], "function_call": "none"},
        {"tool_choice": "auto"},
        {"tool_choice": "none", "parallel_tool_calls": True},
        {"reasoning_effort": "none"},
        {"logprobs": False, "top_logprobs": 0},
        {"stop": ""},
        {"stop": []},
        {"stream": False, "stream_options": {"include_usage": True}},
        {"response_format": {"type": "text"}},
        {"logit_bias": {}},
        {"modalities": ["text"]},
        {"verbosity": "medium"},
        {"user": ""},
        {"prediction": {"type": "content", "content": "x"}, "service_tier": "auto"},
    ],
    ids=str,
)
def test_what_asks_for_nothing_is_accepted(fields: dict[str, Any]) -> None:
    request = parse_chat({"messages": ASK, **fields})
    assert request.needed() == set()
    assert request.engine_fields() == {}


@pytest.mark.parametrize("name", ["audio", "web_search_options", "modalities", "verbosity"])
def test_what_no_engine_here_has_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidRequest, match=name) as refused:
        parse_chat({"messages": ASK, name: {"anything": 1}})
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", name)


def test_what_an_engine_may_have_goes_to_it_as_it_came() -> None:
    fields = {
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "time"}},
        "parallel_tool_calls": False,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"type": "object"}},
        },
        "reasoning_effort": "low",
        "chat_template_kwargs": {"enable_thinking": False},
    }
    sampling = {"top_k": 5, "min_p": 0.1, "logit_bias": {"5": -1}, "stop_token_ids": [7]}
    request = parse_chat({"messages": ASK, **fields, **sampling})
    assert request.engine_fields() == fields
    assert request.needed() == {*fields, *sampling}
    assert sampling.items() <= request.sampling(None, GenerationDefaults()).items()


def test_the_former_functions_are_tools() -> None:
    request = parse_chat(
        {"messages": ASK, "functions": [TOOL["function"]], "function_call": {"name": "time"}}
    )
    assert request.engine_fields() == {
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "time"}},
    }
    without = parse_chat({"messages": ASK, "functions": [TOOL["function"]], "function_call": "none"})
    assert without.engine_fields()["tool_choice"] == "none"


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "weather"}}},
        {"tool_choice": "required"},
        {"tools": [TOOL], "functions": [TOOL["function"]]},
        {"response_format": {"type": "json_schema"}},
        {"chat_template_kwargs": {"messages": "x"}},
        {"chat_template_kwargs": {"return_tensors": "pt"}},
        {"logit_bias": {"five": 1}},
        {"stop_token_ids": [2**40]},
        {"chat_template_kwargs": {"a": {"b": 1}}},
        {"logit_bias": {"5": 101}},
        {"tools": [{"type": "function", "function": {"name": "two words"}}]},
    ],
    ids=str,
)
def test_what_contradicts_itself_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        parse_chat({"messages": ASK, **fields})


def test_text_that_cannot_be_stored_is_found_wherever_it_is() -> None:
    assert decode(rb'{"a": ["\\u0000 is six letters", "\ud83d\ude42"]}') == {
        "a": ["\\u0000 is six letters", "🙂"]
    }
    for body in (rb'{"a": [{"b": "\u0000"}]}', rb'{"\ud800": 1}', rb'"\udc00"'):
        with pytest.raises(InvalidRequest) as refused:
            decode(body)
        assert refused.value.code == "invalid_text"


def test_a_place_is_written_as_openai_writes_it() -> None:
    assert path("messages", 0, "content", 2) == "messages[0].content[2]"
