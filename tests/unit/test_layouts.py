"""TRL's dataset layouts are read into judgements, and written back unchanged."""

from typing import Any

import pytest

from feedback.layouts import read
from schemas.errors import MalformedRow

USER = {"role": "user", "content": "What is the capital of France?"}
SYSTEM = {"role": "system", "content": "Be brief."}


def says(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


ROWS: list[dict[str, Any]] = [
    {"prompt": "Capital of France?", "chosen": "Paris.", "rejected": "Rome."},
    {"prompt": [SYSTEM, USER], "chosen": says("Paris."), "rejected": says("Rome. 🙂\u2028")},
    {"prompt": "Capital of France?", "completion": " Paris.\n", "label": True},
    {"prompt": [USER], "completion": says("Rome."), "label": False},
    {"prompt": "Capital of France?", "completion": "Paris."},
    {"prompt": [USER, *says("Guess."), USER], "completion": says("Paris.")},
]


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_the_same_again(row: dict[str, Any]) -> None:
    assert read(row).row() == row


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
        ({"prompt": [{"role": "tool", "content": ""}], "completion": "Hi"}, "without a role"),
        ({"prompt": [{"role": "user", "content": None}], "completion": "Hi"}, "content is no text"),
        ({"prompt": "Hi", "completion": ""}, "completion is empty"),
        ({"prompt": "Hi", "completion": 7}, "completion must be a text"),
        ({"prompt": "Hi", "completion": [USER]}, "one message of the assistant"),
        ({"prompt": "Hi", "completion": says("Hi")}, "texts beside lists of messages"),
        ({"prompt": [USER], "completion": "Hi"}, "texts beside lists of messages"),
        ({"prompt": "Hi", "chosen": "Hello", "rejected": says("Bye")}, "texts beside lists of messages"),
        ({"prompt": "Hi", "completion": "a\0b"}, "NUL"),
        ({"prompt": "a \ud83d", "completion": "Hi"}, "half a surrogate pair"),
        ({"prompt": "Hi", "completion": "Hi", "label": 1}, "label must be true or false"),
        ({"prompt": "Hi", "chosen": "Hello", "rejected": "Hello"}, "are the same"),
        ({"chosen": says("Hello"), "rejected": says("Go away")}, "whole conversation"),
        ({"chosen": [USER, *says("a")], "rejected": [SYSTEM, USER, *says("b")]}, "do not begin alike"),
    ],
)
def test_a_broken_row_says_why(row: Any, reason: str) -> None:
    with pytest.raises(MalformedRow, match=reason):
        read(row)
