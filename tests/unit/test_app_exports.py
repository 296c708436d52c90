"""Exports of other applications are read with their people, models and reasons, or refused with a reason."""

from copy import deepcopy
from typing import Any

import pytest

from feedback.app_exports import LMArena, OpenWebUI, application_of
from feedback.layouts import Judgement, assistant
from schemas.errors import MalformedRow

USER = {"id": "u1", "parentId": None, "role": "user", "content": "Boil an egg?"}
ONE = {"id": "a1", "parentId": "u1", "role": "assistant", "content": "Six minutes."}
OTHER = {"id": "a2", "parentId": "u1", "role": "assistant", "content": "It depends."}
AGAIN = {"id": "u2", "parentId": "a1", "role": "user", "content": "And hard?"}
LAST = {"id": "a3", "parentId": "u2", "role": "assistant", "content": "Ten."}


def feedback(*nodes: dict[str, Any], rated: str = "a1", rating: object = 1, **data: Any) -> dict[str, Any]:
    """Returns a row of Open WebUI's export."""
    history = {"messages": {node["id"]: node for node in deepcopy(nodes)}, "currentId": rated}
    return {
        "id": "f1",
        "user_id": "user-7",
        "version": 0,
        "type": "rating",
        "data": {"rating": rating, "model_id": "llama3:8b", **data},
        "meta": {"chat_id": "c1", "message_id": rated},
        "snapshot": {"chat": {"id": "c1", "chat": {"history": history, "params": {}}}},
    }


def test_a_rating_of_open_webui_is_a_thumb_of_its_user() -> None:
    row = feedback(USER, ONE, AGAIN, LAST, rated="a3", rating="-1", reason="Too_short!", comment="How?")
    assert isinstance(application_of(row), OpenWebUI)
    assert OpenWebUI().read(row) == Judgement(
        "unpaired",
        [
            {"role": "user", "content": "Boil an egg?"},
            {"role": "assistant", "content": "Six minutes."},
            {"role": "user", "content": "And hard?"},
        ],
        [assistant("Ten.")],
        good=False,
        person="user-7",
        model="llama3:8b",
        reasons=("too_short",),
        comment="How?",
        key="open webui f1",
    )


@pytest.mark.parametrize(
    ("rating", "replies"), [(1, ["Six minutes.", "It depends."]), (-1, ["It depends.", "Six minutes."])]
)
def test_a_reply_that_was_compared_with_another_is_ranked(rating: int, replies: list[str]) -> None:
    found = OpenWebUI().read(feedback(USER, ONE, OTHER, rating=rating, sibling_model_ids=["gemma"]))
    assert (found.layout, found.texts) == ("preference", replies)
    alone = OpenWebUI().read(feedback(USER, ONE, OTHER, rating=rating))
    assert (alone.layout, alone.good) == ("unpaired", rating == 1)  # it was only asked for again


def test_the_system_message_of_a_chat_is_part_of_its_prompt() -> None:
    row = feedback(USER, ONE)
    row["snapshot"]["chat"]["chat"]["params"]["system"] = "Be brief."
    assert OpenWebUI().read(row).messages[0] == {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"type": "rating", "data": None, "meta": {}, "snapshot": {}}, "data must be an object"),
        (feedback(USER, ONE, rating=5), "rating must be 1 or -1"),
        (feedback(USER, ONE, rating=None), "rating must be 1 or -1"),
        (feedback(USER, ONE, rated="gone"), "lacks the message"),
        (feedback(ONE), "lacks the message"),
        (feedback(USER, {**ONE, "content": " "}), "no reply"),
        (feedback(USER, {**ONE, "parentId": "a1"}), "lacks|must be the user's"),
        (feedback(USER, {**ONE, "content": "half \ud83d"}), "half a surrogate"),
        (feedback(USER, ONE, comment="nul \0"), "NUL"),
        ({**feedback(USER, ONE), "snapshot": None}, "no chat in its snapshot"),
        ({**feedback(USER, ONE), "snapshot": {"chat": {"chat": {"history": []}}}}, "no chat"),
    ],
)
def test_feedback_that_cannot_be_read_is_refused(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(MalformedRow, match=reason):
        OpenWebUI().read(row)


def battle(winner: str, **changes: Any) -> dict[str, Any]:
    """Returns a row of LMArena's battles."""

    def side(reply: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": reply}]

    row = {
        "model_a": "one",
        "model_b": "two",
        "winner": winner,
        "judge": "arena_user_9",
        "conversation_a": side("Hello."),
        "conversation_b": side("Yo."),
    }
    return {**row, **changes}


@pytest.mark.parametrize(
    ("winner", "first", "tie", "acceptable"),
    [
        ("model_a", "Hello.", False, True),
        ("model_b", "Yo.", False, True),
        ("tie", "Hello.", True, True),
        ("tie (bothbad)", "Hello.", True, False),
        ("both_bad", "Hello.", True, False),
    ],
)
def test_a_battle_is_a_ranking(winner: str, first: str, tie: bool, acceptable: bool) -> None:
    assert isinstance(application_of(battle(winner)), LMArena)
    found = LMArena().read(battle(winner))
    assert (found.texts[0], found.tie, found.acceptable) == (first, tie, acceptable)
    assert (found.messages, found.person, found.model) == (
        [{"role": "user", "content": "Hi"}],
        "arena_user_9",
        "one two",
    )


@pytest.mark.parametrize(
    "row",
    [
        battle("neither"),
        battle("tie", conversation_a=[]),
        battle("tie", conversation_a=[{"role": "user", "content": "Hi"}]),
        battle("tie", conversation_a=battle("tie")["conversation_b"]),
        battle(
            "tie", conversation_b=[{"role": "user", "content": "Ho"}, {"role": "assistant", "content": "Yo."}]
        ),
        {"chosen": "a", "rejected": "b"},
    ],
)
def test_battles_that_cannot_be_read_are_refused(row: dict[str, Any]) -> None:
    with pytest.raises(MalformedRow):
        LMArena().read(row)


def test_other_rows_belong_to_no_application() -> None:
    assert application_of({"prompt": "a", "completion": "b"}) is None
    assert application_of([]) is None
