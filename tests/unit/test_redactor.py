"""Personal data is replaced in what is stored, and nothing else is."""

import json
import sys
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback.personal_data import PersonalDataFinder
from feedback.redaction import Redactor
from schemas.errors import StartError
from schemas.feedback import Edit, Thumb
from schemas.settings import RedactionSettings
from schemas.turns import REDACTED, Reply, Turn
from tests.bench.redaction import PRECISION, RECALL, measure

REGIONS = RedactionSettings().regions
REDACTOR = Redactor(
    ["email", "phone", "iban", "card", "ip", "national_id"], REGIONS, lambda *_: "conv-hidden"
)
TURN = Turn(
    id="chatcmpl-t1",
    project="default",
    conversation_id="conv-1",
    rater="u_1",
    key_id="k",
    messages=[{"role": "user", "content": "Hello"}],
    prompt_token_ids=[1, 2, 3],
    sampling={},
    replies=[Reply(0, "p0", 1.0, "Hi there", [4, 5], [-0.1, -0.2], "stop")],
    metadata={"conversation_id": "conv-1", "page": "/help"},
)
JSON = st.recursive(
    st.none() | st.booleans() | st.text(max_size=20) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def test_recall_and_precision_on_the_generated_corpus() -> None:
    score = measure(seed=3, each=4)
    assert score.recall >= RECALL, score.missed
    assert score.precision >= PRECISION, score.wrong


def test_a_turn_without_personal_data_is_stored_as_it_is() -> None:
    assert REDACTOR.turn(TURN) == TURN


def test_a_redacted_turn_keeps_no_token_ids_but_their_numbers() -> None:
    said = "I am ada@example.org, card 4111 1111 1111 1111."
    turn = REDACTOR.turn(replace(TURN, messages=[{"role": "user", "content": said}]))
    assert turn.messages == [{"role": "user", "content": "I am [email], card [card]."}]
    assert (turn.prompt_token_ids, turn.replies[0].token_ids, turn.replies[0].logprobs) == ([], [], [])
    assert turn.request[REDACTED] == {"kinds": ["card", "email"], "prompt_tokens": 3, "tokens": [2]}
    assert turn.replies[0].text == "Hi there"


def test_a_reply_is_redacted_too() -> None:
    reply = replace(TURN.replies[0], text="Write to ada@example.org.")
    turn = REDACTOR.turn(replace(TURN, replies=[reply]))
    assert turn.replies[0].text == "Write to [email]."
    assert turn.prompt_token_ids == []


def test_metadata_and_a_conversations_id_are_redacted_without_touching_the_tokens() -> None:
    turn = REDACTOR.turn(
        replace(
            TURN,
            conversation_id="+49 151 23456789",
            metadata={"conversation_id": "+49 151 23456789", "mail": "ada@example.org"},
        )
    )
    assert turn.conversation_id == turn.metadata["conversation_id"] == "conv-hidden"
    assert turn.metadata["mail"] == "[email]"
    assert turn.prompt_token_ids == TURN.prompt_token_ids
    assert REDACTED not in turn.request


def test_parts_tools_and_arguments_of_calls_are_redacted_and_images_stay() -> None:
    image = "data:image/png;base64,4111111111111111"
    call = {
        "type": "function",
        "function": {"name": "send", "arguments": '{"to": "ada@example.org", "n": 2}'},
    }
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "to ada@example.org"},
                                     {"type": "image_url", "image_url": {"url": image}}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]  # fmt: skip
    turn = REDACTOR.turn(replace(TURN, messages=messages, request={"instructions": "I am ada@example.org"}))
    assert "ada" not in json.dumps([turn.messages, turn.request])
    assert turn.messages[0]["content"][1]["image_url"]["url"] == image
    arguments = turn.messages[1]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(arguments) == {"to": "[email]", "n": 2}


def test_a_number_among_arguments_leaves_them_json() -> None:
    call = {"function": {"name": "pay", "arguments": '{"card": 4111111111111111, "sum": 12}'}}
    turn = REDACTOR.turn(replace(TURN, messages=[{"role": "assistant", "tool_calls": [call]}]))
    arguments = turn.messages[0]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(arguments) == {"card": "[card]", "sum": 12}


def arguments_of(written: str) -> str:
    """Returns the arguments of a tool call as they are stored."""
    call = {"function": {"name": "send", "arguments": written}}
    turn = REDACTOR.turn(replace(TURN, messages=[{"role": "assistant", "tool_calls": [call]}]))
    stored: str = turn.messages[0]["tool_calls"][0]["function"]["arguments"]
    return stored


def test_names_in_arguments_are_redacted() -> None:
    assert json.loads(arguments_of('{"to": {"ada@example.org": "friend"}}')) == {"to": {"[email]": "friend"}}


def test_arguments_that_are_nested_deeply_are_redacted_as_text() -> None:
    assert arguments_of("[" * 600 + '"ada@example.org"' + "]" * 600) == "[" * 600 + '"[email]"' + "]" * 600


def test_comments_and_edits_are_redacted() -> None:
    edit = Edit(completion_id="c", type="edit", choice=0, text="Call +44 7911 123456", comment="I am a@b.org")
    edited = REDACTOR.vote(edit)
    assert isinstance(edited, Edit)
    assert (edited.text, edited.comment) == ("Call [phone]", "I am [email]")
    thumb = Thumb(completion_id="c", type="thumb", choice=0, value="up")
    assert REDACTOR.vote(thumb) == thumb


@given(JSON)
@settings(max_examples=200)
def test_any_json_keeps_its_shape(value: Any) -> None:
    found: set[Any] = set()
    redacted = REDACTOR.value(value, found)
    assert type(redacted) is type(value)
    if not found:
        assert redacted == value


@given(st.text(max_size=300))
@settings(max_examples=300)
def test_redacting_again_changes_nothing(text: str) -> None:
    once = REDACTOR.text(text)
    assert REDACTOR.text(once) == once


@given(st.text(alphabet="0123456789 ()-+./@:abAB", max_size=200))
@settings(max_examples=300)
def test_what_is_found_lies_in_the_text_in_order_and_apart(text: str) -> None:
    found = PersonalDataFinder(["email", "phone", "iban", "card", "ip", "national_id"], REGIONS).find(text)
    ends = [0, *(each.end for each in found)]
    assert all(end <= each.start < each.end <= len(text) for end, each in zip(ends, found, strict=False))


def test_only_the_kinds_that_are_set_are_redacted() -> None:
    only = Redactor(["ip"], REGIONS, lambda *_: "")
    assert only.text("ada@example.org from 203.0.113.9") == "ada@example.org from [ip]"


def test_without_its_libraries_redaction_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "phonenumbers", None)
    with pytest.raises(StartError, match=r"hearken\[redaction\]"):
        PersonalDataFinder(["email"], REGIONS)


def test_what_is_looked_up_in_one_text_is_bounded() -> None:
    """The others count as phones'."""
    text = " ".join(f"call {number} " for number in range(10**9, 10**9 + 2_000))
    assert REDACTOR.text(text).count("[phone]") >= 1_500


@pytest.mark.parametrize(
    "piece",
    [
        "AB12" + "c" * 40 + " ", "AB12 cdef ", "x@" + "a-." * 40, "a at b dot ", "a.b-c at ", "1 ", "12-",
        "1:", "+1 ", "(1) ", "4111 1111 1111 1112 ", "1.1.1.", "1", "a",
    ],
)  # fmt: skip
def test_the_time_grows_with_the_length_only(piece: str) -> None:
    """No text makes a pattern backtrack without end."""
    started = time.perf_counter()
    REDACTOR.text(piece * (20_000 // len(piece)))
    assert time.perf_counter() - started < 10
