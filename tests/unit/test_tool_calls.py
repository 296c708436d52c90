"""Tool calls are read from a reply however its text is cut, and a message is put together from its pieces."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.special_tokens import SpecialTokens
from serving.embedded.tools import ToolCallParser, calls_tools
from serving.engine import Delta
from serving.streamed_reply import StreamedReply
from tests.contract.engines import TEMPLATE

WEATHER = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'
TIME = '<tool_call>{"name": "time"}</tool_call>'


def read(pieces: list[str], *, several: bool = True) -> tuple[str, list[tuple[str, str]]]:
    parser = ToolCallParser(several=several)
    content, calls = "", []
    for number, piece in enumerate(pieces):
        text, new = parser.push(piece, ended=number == len(pieces) - 1)
        content += text
        calls += new
    assert [call["index"] for call in calls] == list(range(len(calls)))
    assert len({call["id"] for call in calls}) == len(calls)
    return content, [(call["function"]["name"], call["function"]["arguments"]) for call in calls]


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("Hello", "Hello", []),
        (WEATHER, "", [("weather", '{"city": "Köln"}')]),
        (f"Let me see.\n{WEATHER}\n{TIME}", "Let me see.", [("weather", '{"city": "Köln"}'), ("time", "{}")]),
        ("a < b\n", "a < b\n", []),
        ("<tool_call>\nno\n</tool_call>", "<tool_call>\nno\n</tool_call>", []),
        ('<tool_call>{"name": 5}</tool_call>x', '<tool_call>{"name": 5}</tool_call>x', []),
        (WEATHER.removesuffix("\n</tool_call>"), "", [("weather", '{"city": "Köln"}')]),
        (WEATHER[:30], WEATHER[:30], []),
        ("<tool_c", "<tool_c", []),
    ],
)
@given(data=st.data())
def test_calls_do_not_depend_on_how_the_text_is_cut(
    text: str, content: str, calls: list[tuple[str, str]], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=6)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(pieces) == (content, calls)


def test_only_the_first_of_parallel_calls_where_one_was_asked_for() -> None:
    assert read([WEATHER, TIME], several=False) == ("", [("weather", '{"city": "Köln"}')])


def test_a_template_says_whether_it_calls_tools() -> None:
    assert calls_tools(TEMPLATE)
    assert not calls_tools("{{ messages[0].content }}")
    assert not calls_tools(None)


def item(token: str) -> dict[str, Any]:
    return {"token": token, "logprob": -1.0, "bytes": list(token.encode()), "top_logprobs": []}


def delta(text: str, tokens: list[str], finish: str | None = None, **more: Any) -> Delta:
    return Delta(0, text, list(range(len(tokens))), [item(token) for token in tokens], finish, None, **more)


def reply(*, stops: bool = False, legacy: bool = False, reasoning: bool = True) -> StreamedReply:
    return StreamedReply(SpecialTokens(["<|end|>"]), stops, legacy, reasoning)


def shown(found: StreamedReply) -> list[str]:
    return [each["token"] for each in found.shown_logprobs]


def test_log_probabilities_end_where_the_content_ends() -> None:
    ended = reply()
    ended.add(delta("Hi", ["Hi"]))
    ended.add(delta(" you", [" you", "<|end|>"], "stop"))
    assert shown(ended) == ["Hi", " you"]
    assert len(ended.token_ids) == len(ended.token_logprobs) == 3

    stopped = reply(stops=True)
    stopped.add(delta("", ["Hi"]))  # held back, as "Hi." may begin the stop string
    assert shown(stopped) == []
    stopped.add(delta("Hi", ["."]))
    stopped.add(delta("", ["END"], "stop"))
    assert shown(stopped) == ["Hi"]

    cut = reply(stops=True)
    cut.add(delta("Hi 🙂"[:3], ["Hi", " \ufffd"], "length"))
    assert shown(cut) == ["Hi", " \ufffd"]


def test_a_message_is_put_together_from_its_pieces() -> None:
    found = reply()
    start = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "time", "arguments": ""}}
    found.add(delta("", ["a"], reasoning="Which "))
    found.add(delta("", ["b"], reasoning="time?"))
    first = found.add(delta("", ["c"], tool_calls=[start]))
    found.add(delta("", ["d"], tool_calls=[{"index": 0, "function": {"arguments": '{"zone": '}}]))
    rest = {"index": 0, "function": {"arguments": '"UTC"}'}}
    found.add(delta("", ["e"], "tool_calls", tool_calls=[rest]))
    called = [
        {"id": "call_1", "type": "function", "function": {"name": "time", "arguments": '{"zone": "UTC"}'}}
    ]
    assert first.message == {"tool_calls": [start]}
    assert found.message() == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "reasoning_content": "Which time?",
        "tool_calls": called,
    }
    assert found.recorded() == {
        "role": "assistant",
        "content": "",
        "reasoning_content": "Which time?",
        "tool_calls": called,
    }
    assert json.loads(called[0]["function"]["arguments"]) == {"zone": "UTC"}
    assert reply().recorded() is None


def test_who_asks_in_the_former_way_is_answered_in_it() -> None:
    found = reply(legacy=True, reasoning=False)
    start = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "time", "arguments": "{}"}}
    last = found.add(delta("", ["a"], "tool_calls", reasoning="Hm.", tool_calls=[start]))
    assert last.message == {"function_call": {"name": "time", "arguments": "{}"}}
    assert last.finish_reason == found.finish_reason == "function_call"
    assert found.message() == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "function_call": {"name": "time", "arguments": "{}"},
    }
