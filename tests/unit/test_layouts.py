"""Rows of data sets are read into judgements, and TRL's layouts are written back unchanged."""

import json
from typing import Any

import pytest

from feedback.dataset_rows import columns_of, read
from schemas.errors import MalformedRow
from tests.tools import WEATHER

USER = {"role": "user", "content": "What is the capital of France?"}
SYSTEM = {"role": "system", "content": "Be brief."}


def says(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


CALLS = {
    "role": "assistant",
    "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Köln"}}}
    ],
}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "Rain."}
THOUGHT = [{"role": "assistant", "content": "Rain.", "reasoning_content": "It said so."}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


ROWS: list[dict[str, Any]] = [
    {"prompt": "Capital of France?", "chosen": "Paris.", "rejected": "Rome."},
    {"prompt": [SYSTEM, USER], "chosen": says("Paris."), "rejected": says("Rome. 🙂\u2028")},
    {"prompt": "Capital of France?", "completion": " Paris.\n", "label": True},
    {"prompt": [USER], "completion": says("Rome."), "label": False},
    {"prompt": "Capital of France?", "completion": "Paris."},
    {"prompt": [USER, *says("Guess."), USER], "completion": says("Paris.")},
    {"prompt": [USER], "chosen": [CALLS], "rejected": says("Sun."), "tools": [WEATHER]},
    {"prompt": [USER, CALLS, RESULT], "completion": THOUGHT, "label": True, "tools": [WEATHER]},
]


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_the_same_again(row: dict[str, Any]) -> None:
    assert read(row).row() == row


def test_tool_calls_are_read_as_data_sets_write_them() -> None:
    """Without ids, with bare calls and functions, thoughts under another name, and nulls for what is not."""
    asked = {"name": "weather", "arguments": {"city": "Rome"}}
    schema = {**WEATHER["function"], "return": {"type": "string"}}
    row = {
        "prompt": [
            {"role": "user", "content": "Where does it rain?", "tool_calls": None, "weight": 1},
            {"role": "assistant", "content": None, "tool_calls": [asked, CALLS["tool_calls"][0]["function"]]},
            {"role": "tool", "name": "weather", "content": "Sun."},
            {"role": "tool", "name": "weather", "content": "Rain."},
        ],
        "chosen": [{"role": "assistant", "content": "In Köln.", "thinking": "The second."}],
        "rejected": [{"role": "assistant", "tool_calls": [asked]}],
        "tools": json.dumps([schema]),
    }
    found = read(row)
    _, called, first, second = found.messages
    ids = [call["id"] for call in called["tool_calls"]]
    assert [first["tool_call_id"], second["tool_call_id"]] == ids == ["call_0", "call_1"]
    assert called["tool_calls"][0]["function"]["arguments"] == '{"city": "Rome"}'
    thought, call = found.replies
    assert thought == {"role": "assistant", "content": "In Köln.", "reasoning_content": "The second."}
    assert call["tool_calls"][0]["id"] == "call_2"
    assert found.tools == [{"type": "function", "function": schema}]
    assert read(found.row()) == found
    assert str(columns_of(row)).endswith("; the tools are `tools`")
    again = {**row, "rejected": [{**THOUGHT[0], "tool_calls": [{**asked, "id": "a"}]}]}
    with pytest.raises(MalformedRow, match="are the same"):
        read({**again, "chosen": [{**THOUGHT[0], "tool_calls": [{**asked, "id": "b"}]}]})


def test_columns_of_others_are_let_pass() -> None:
    assert read({**ROWS[0], "score_chosen": 4.5}).row() == ROWS[0]


def test_a_prompt_that_both_conversations_begin_with_is_found() -> None:
    row = {"chosen": [USER, *says("Paris.")], "rejected": [USER, *says("Rome.")]}
    assert read(row).row() == {"prompt": [USER], "chosen": says("Paris."), "rejected": says("Rome.")}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (["prompt"], "no object"),
        ({"prompt": "Hi"}, "neither chosen and rejected nor completion"),
        ({"completion": "Hi"}, "prompt must be a text or a list of messages"),
        ({"prompt": " ", "completion": "Hi"}, "prompt is empty"),
        ({"prompt": [], "completion": "Hi"}, "prompt must be"),
        ({"prompt": says("Hi"), "completion": "Hi"}, "must be the user's"),
        ({"prompt": [{"role": "robot", "content": ""}], "completion": "Hi"}, r"prompt: \[0\].role"),
        ({"prompt": [{"role": "user", "content": None}], "completion": "Hi"}, "content is missing"),
        ({"prompt": [{"role": "user", "content": [IMAGE]}], "completion": "Hi"}, "content is no text"),
        ({"prompt": ["Hi"], "completion": "Hi"}, "list of messages"),
        ({"prompt": [USER, {"role": "tool", "content": ""}], "completion": "Hi"}, "was not called"),
        ({"prompt": [USER], "completion": [{"role": "assistant"}]}, "completion is empty"),
        ({"prompt": [USER], "completion": [{**CALLS, "tool_calls": "now"}]}, "calls that are no list"),
        ({"prompt": [USER], "completion": [{**CALLS, "tool_calls": [7]}]}, "call that is no object"),
        ({"prompt": [USER], "completion": [{**CALLS, "tool_calls": [{"name": "a b"}]}]}, "function.name"),
        ({"prompt": [{**USER, "thinking": "Hm."}], "completion": "Hi"}, "only an assistant"),
        ({"prompt": [USER], "completion": says("Hi"), "tools": "{"}, "tools is no JSON"),
        ({"prompt": [USER], "completion": says("Hi"), "tools": ["weather"]}, "tools must be a list"),
        ({"prompt": [USER], "completion": says("Hi"), "tools": [{"parameters": {}}]}, "tools: .*name"),
        ({"prompt": "Hi", "completion": ""}, "completion is empty"),
        ({"prompt": "Hi", "completion": 7}, "completion must be a text"),
        ({"prompt": "Hi", "completion": [USER]}, "one message of the assistant"),
        ({"prompt": "Hi", "completion": says("Hi")}, "texts beside lists of messages"),
        ({"prompt": [USER], "completion": "Hi"}, "texts beside lists of messages"),
        ({"prompt": "Hi", "chosen": "Hello", "rejected": says("Bye")}, "texts beside lists of messages"),
        ({"prompt": "Hi", "completion": "a\0b"}, "NUL"),
        ({"prompt": "a \ud83d", "completion": "Hi"}, "half a surrogate pair"),
        ({"prompt": "Hi", "completion": "Hi", "label": 2}, "label must be true or false"),
        ({"prompt": "Hi", "completion": "Hi", "label": "yes"}, "label must be true or false"),
        ({"prompt": "Hi", "completion": "Hi", "rating": 5}, "rating rates the reply.*--threshold"),
        ({"prompt": "Hi", "completion": "Hi", "score": 0.0}, "score rates the reply"),
        ({**ROWS[0], "chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs"),
        ({"chosen": "Blue.", "rejected": "Green."}, "no column prompt"),
        ({"chosen": "It is blue", "rejected": "It is "}, "only what both begin with"),
        ({"prompt": "Hi", "chosen": "Hello", "rejected": "Hello"}, "are the same"),
        ({"chosen": says("Hello"), "rejected": says("Go away")}, "whole conversation"),
        ({"chosen": [USER, *says("a")], "rejected": [SYSTEM, USER, *says("b")]}, "do not begin alike"),
    ],
)
def test_a_broken_row_says_why(row: Any, reason: str) -> None:
    with pytest.raises(MalformedRow, match=reason):
        read(row)


NILE: dict[str, Any] = {"prompt": "Which river is longest?", "completion": "The Nile."}


@pytest.mark.parametrize("name", ["label", "labels", "desirable"])
@pytest.mark.parametrize("label", [True, 1, 1.0, "1", "True", "true "])
def test_a_label_says_the_same_in_many_ways(name: str, label: Any) -> None:
    assert read({**NILE, name: label}).row() == {**NILE, "label": True}
    opposite = {"True": "False", "true ": "false ", "1": "0"}.get(label, type(label)(0))
    assert read({**NILE, name: opposite}).row() == {**NILE, "label": False}


def test_a_rating_is_a_thumb_from_a_threshold_on() -> None:
    columns = columns_of({**NILE, "rating": 1}, threshold=4)
    assert [columns.read({**NILE, "rating": rating}).good for rating in (1, 3.5, 4, "4.5")] == [
        False, False, True, True,
    ]  # fmt: skip
    assert str(columns) == "unpaired; the prompt is `prompt`; a reply is good from a `rating` of 4"
    for rating in ("good", True, [4], float("nan")):
        with pytest.raises(MalformedRow, match="must be a number"):
            columns.read({**NILE, "rating": rating})


def test_a_file_has_one_way_to_judge() -> None:
    columns = columns_of({**NILE, "label": True})
    for other in (NILE, {**NILE, "label": None}, {**NILE, "desirable": False}, ROWS[0]):
        with pytest.raises(MalformedRow, match="another way than the first row"):
            columns.read(other)


def test_the_beginning_of_both_replies_is_the_prompt() -> None:
    dialogue = "\n\nHuman: Which river is longest?\n\nAssistant: In Africa?\n\nHuman: Yes.\n\nAssistant: "
    hh = read({"chosen": dialogue + "The Nile.", "rejected": dialogue + "A fish."})
    assert [message["role"] for message in hh.messages] == ["user", "assistant", "user"]
    assert (hh.messages[0]["content"], hh.texts) == ("Which river is longest?", ["The Nile.", "A fish."])
    plain = {"chosen": "The sky is grey.", "rejected": "The sky is green."}
    expected = {"prompt": "The sky is", "chosen": " grey.", "rejected": " green."}
    assert read(plain).row() == read({**plain, "prompt": None}).row() == expected
    with pytest.raises(MalformedRow, match="do not begin alike"):
        read({"chosen": dialogue + "a", "rejected": dialogue.replace("Yes", "No") + "b"})


def test_a_text_beside_whole_conversations_is_their_beginning() -> None:
    row = {"prompt": USER["content"], "chosen": [USER, *says("Paris.")], "rejected": [USER, *says("Rome.")]}
    assert read(row).row() == {"prompt": [USER], "chosen": says("Paris."), "rejected": says("Rome.")}
    with pytest.raises(MalformedRow, match="do not begin with the prompt"):
        read({**row, "prompt": "Something else"})
    whole = read({"prompt": [SYSTEM, USER], "completion": [USER, *says("Paris.")], "label": 1})
    assert whole.texts == ["Paris."]


def test_a_question_after_a_system_message() -> None:
    orca = {"system": "Be wise.", "question": "Which river is longest?", "chosen": "Nile", "rejected": "Fish"}
    assert read(orca).messages == [
        {"role": "system", "content": "Be wise."},
        {"role": "user", "content": "Which river is longest?"},
    ]
    assert len(read({**orca, "system": ""}).messages) == 1
    assert len(read({**orca, "system": None}).messages) == 1


def test_messages_of_other_services() -> None:
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": "this?"}]
    row = {"prompt": [{"role": "developer", "content": "Hm."}, {"role": "user", "content": parts}]}
    assert read({**row, "completion": says("Tea.")}).messages == [
        {"role": "system", "content": "Hm."},
        {"role": "user", "content": "What is\nthis?"},
    ]
