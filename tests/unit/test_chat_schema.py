"""Chat requests are validated as OpenAI's. tests/integration/test_chat_refusals.py covers the responses."""

import pytest

from schemas.chat import parse_chat
from schemas.errors import InvalidRequest
from schemas.generation_defaults import GenerationDefaults
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


def test_messages_become_roles_and_text() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    request = parse_chat(
        {
            "messages": [
                {"role": "developer", "content": "Be kind."},
                {"role": "user", "content": parts, "name": "ada"},
                {"role": "assistant", "content": "", "refusal": None, "tool_calls": None},
            ]
        }
    )
    assert [message.model_dump() for message in request.messages] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "one\ntwo"},
        {"role": "assistant", "content": ""},
    ]


def test_null_means_not_given() -> None:
    assert parse_chat({"messages": ASK, "n": None, "tools": None, "user": None, "store": None}).n == 1


@pytest.mark.parametrize("name", ["audio", "functions", "logit_bias", "prediction", "tool_choice", "tools"])
def test_what_would_change_the_answer_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidRequest, match=name) as refused:
        parse_chat({"messages": ASK, name: {"anything": 1}})
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", name)


def test_an_assistants_tool_calls_are_refused_where_they_stand() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    with pytest.raises(InvalidRequest) as refused:
        parse_chat({"messages": [*ASK, call]})
    assert refused.value.param == "messages[1].tool_calls"


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
