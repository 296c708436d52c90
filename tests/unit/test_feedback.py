"""Votes are parsed, assigned to slots, and validated against their turns."""

from typing import Any

import pytest

from feedback.votable_turn import VotableTurn, check_edit
from schemas.errors import InvalidRequest
from schemas.feedback import Edit, parse_vote

VOTABLE = VotableTurn("chatcmpl-1", "default", "u_ada", "key", prompt_tokens=56, choices=[0, 1, 2])


def vote(**fields: Any) -> Any:
    return parse_vote({"completion_id": "chatcmpl-1", **fields})


def refusal(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        vote(**fields)
    return caught.value


@pytest.mark.parametrize(
    ("fields", "slot", "facts"),
    [
        (
            {"type": "thumb", "value": "down", "reasons": ["too-long"], "comment": "words"},
            "thumb:0",
            {"value": "down", "reasons": ["too-long"]},
        ),
        (
            {"type": "ranking", "ranking": [[1], [0, 2]], "comment": "words"},
            "ranking",
            {"ranking": [[1], [0, 2]], "acceptable": True},
        ),
        (
            {"type": "ranking", "ranking": [[1], [0]], "reasons": ["clear"]},
            "ranking",
            {"ranking": [[1], [0]], "acceptable": True, "reasons": ["clear"]},
        ),
        ({"type": "edit", "choice": 2, "text": "words"}, "edit:2", {}),
        ({"type": "signal", "choice": 1, "signal": "copied"}, "signal:1:copied", {"signal": "copied"}),
    ],
)
def test_the_facts_of_a_vote_hold_no_text(fields: dict[str, Any], slot: str, facts: dict[str, Any]) -> None:
    assert vote(**fields).slot == slot
    assert vote(**fields).facts == facts


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "type"),
        ({"type": "applause"}, "type"),
        ({"type": ["thumb"]}, "type"),
        ({"type": "thumb"}, "value"),
        ({"type": "thumb", "value": "sideways"}, "value"),
        ({"type": "thumb", "value": "up", "choice": "0"}, "choice"),
        ({"type": "thumb", "value": "up", "choice": True}, "choice"),
        ({"type": "thumb", "value": "up", "choice": -1}, "choice"),
        ({"type": "thumb", "value": "up", "choice": 10**30}, "choice"),
        ({"type": "thumb", "value": "up", "reasons": ["Too long!"]}, "reasons[0]"),
        ({"type": "thumb", "value": "up", "reasons": ["concise\n"]}, "reasons[0]"),
        ({"type": "thumb", "value": "up", "reasons": ["x"] * 9}, "reasons"),
        ({"type": "thumb", "value": "up", "comment": "x" * 10_001}, "comment"),
        ({"type": "thumb", "value": "up", "stars": 5}, "stars"),
        ({"type": "thumb", "value": "up", "user": ""}, "user"),
        ({"type": "thumb", "value": "up", "completion_id": "c" * 129}, "completion_id"),
        ({"type": "ranking", "ranking": [["0"]]}, "ranking[0][0]"),
        ({"type": "ranking", "ranking": [[0], [1]], "acceptable": "no"}, "acceptable"),
        ({"type": "ranking", "ranking": [[0], [1]], "reasons": ["Too long!"]}, "reasons[0]"),
        ({"type": "edit"}, "text"),
        ({"type": "signal", "signal": "yawned"}, "signal"),
        ({"type": "signal", "signal": "copied", "comment": "x"}, "comment"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    error = refusal(**fields)

    assert (error.status, error.param) == (400, param)
    assert error.message.startswith(param)


def test_null_means_not_given() -> None:
    thumb = {"completion_id": "chatcmpl-1", "type": "thumb", "value": "up"}
    nothing = {"choice": None, "reasons": None, "comment": None, "user": None, "feedback_token": None}
    assert parse_vote({**thumb, **nothing}) == parse_vote(thumb)


@pytest.mark.parametrize("data", [None, [], "thumb", 7])
def test_a_vote_is_an_object(data: Any) -> None:
    with pytest.raises(InvalidRequest):
        parse_vote(data)


@pytest.mark.parametrize("ranking", [[[0, 1, 2]], [[2], [0, 1]], [[1], [0], [2]]])
def test_a_ranking_names_every_choice_once(ranking: list[list[int]]) -> None:
    VOTABLE.check(vote(type="ranking", ranking=ranking))


@pytest.mark.parametrize(
    "ranking", [[], [[0], [1]], [[0], [1], [1], [2]], [[0, 1, 2, 3]], [[0, 1, 2], []], [[-1, 0, 1]]]
)
def test_a_ranking_that_does_not_match_the_choices_is_refused(ranking: list[list[int]]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        VOTABLE.check(vote(type="ranking", ranking=ranking))
    assert (caught.value.code, caught.value.param) == ("invalid_ranking", "ranking")


def test_a_choice_that_was_not_shown_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        VOTABLE.check(vote(type="signal", choice=3, signal="shared"))
    assert caught.value.code == "invalid_choice"


def check(text: str, *, context: int | None = 256, most_bytes: int = 10_000) -> str | None:
    """Returns the error code for an edit of "It is Paris.", if any."""
    edit = vote(type="edit", text=text)
    assert isinstance(edit, Edit)
    try:
        check_edit(edit, "It is Paris.", VOTABLE, context=context, most_bytes=most_bytes)
    except InvalidRequest as error:
        return error.code
    return None


def test_an_edit_must_say_something_else() -> None:
    assert check("Paris.") is None
    assert check(" \n ") == "empty_edit"
    assert check("It is Paris.") == "unchanged_edit"


def test_an_edit_must_fit_beside_its_prompt() -> None:
    """A context of 256 with a prompt of 56 leaves 200 tokens: 200 words at most, 800 bytes at most."""
    assert check("a " * 200) is None
    assert check("a " * 201) == "context_length_exceeded"
    assert check("a" * 800) is None
    assert check("é" * 401) == "context_length_exceeded"
    assert check("a", context=56) == "context_length_exceeded"


def test_without_a_known_context_the_byte_limit_bounds_an_edit() -> None:
    assert check("a " * 5_000, context=None) is None
    assert check("a " * 5_001, context=None) == "context_length_exceeded"
