"""Records of Argilla give a judgement for each person who answered, or a reason why not."""

from typing import Any

import pytest

from feedback.app_exports import application_of
from feedback.argilla import Argilla
from feedback.layouts import Judgement, assistant
from schemas.errors import MalformedRow

ASK = [{"role": "user", "content": "Boil an egg?"}]


def record(fields: dict[str, Any] | None = None, **responses: Any) -> dict[str, Any]:
    """Returns a record as `records.to_list()` has it."""
    given = fields or {"prompt": "Boil an egg?", "response": "Six minutes."}
    nothing = {"suggestions": {}, "vectors": {}, "_server_id": "s1"}
    return {"id": "r1", "fields": given, "metadata": {"model": "gpt"}, "responses": responses, **nothing}


def by(user: str, value: Any, **more: Any) -> dict[str, Any]:
    return {"value": value, "user_id": user, **more}


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a record as `to_datasets()` has it."""
    found = {"id": row["id"], **row["fields"], **row["metadata"]}
    for question, given in row["responses"].items():
        found[f"{question}.responses"] = [each["value"] for each in given]
        found[f"{question}.responses.users"] = [each["user_id"] for each in given]
        found[f"{question}.responses.status"] = [each.get("status", "submitted") for each in given]
    return found


RATED = record(
    quality=[by("ada", 5), by("bob", 2), by("eve", 1, status="draft")],
    comment=[by("bob", "Too short.")],
)


@pytest.mark.parametrize("row", [RATED, flat(RATED)])
def test_each_person_who_rated_gives_a_thumb(row: dict[str, Any]) -> None:
    kind = application_of(row, None, 4)
    assert isinstance(kind, Argilla)
    first, second = kind.read(row)
    assert first == Judgement(
        "unpaired",
        ASK,
        [assistant("Six minutes.")],
        good=True,
        person="ada",
        model="gpt",
        key="argilla r1 quality ada 0",
    )
    assert (second.good, second.person, second.comment) == (False, "bob", "Too short.")


@pytest.mark.parametrize(("label", "good"), [("yes", True), ("Not helpful", False), ("thumbs_up", True)])
def test_labels_that_say_good_or_bad_are_thumbs(label: str, good: bool) -> None:
    [found] = Argilla().read(record(label=[by("ada", label)]))
    assert (found.layout, found.good) == ("unpaired", good)


TWO = {"chat": ASK, "response_a": "Six minutes.", "response_b": "It depends."}


def test_rankings_and_choices_are_preferences() -> None:
    ranks = [{"value": "response_a", "rank": 2}, {"value": "response_b", "rank": 1}]
    [found] = Argilla().read(record(TWO, ranking=[by("ada", ranks)]))
    assert (found.layout, found.messages, found.texts) == (
        "preference", ASK, ["It depends.", "Six minutes."],
    )  # fmt: skip
    tied = [{**each, "rank": 1} for each in ranks]
    [found] = Argilla().read(record(TWO, ranking=[by("ada", tied)]))
    assert found.tie
    [found] = Argilla().read(record(TWO, better=[by("ada", "response_b")]))
    assert found.texts == ["It depends.", "Six minutes."]
    three = [*ranks, {"value": "response_c", "rank": 3}]
    found = Argilla().read(record({**TWO, "response_c": "No."}, ranking=[by("ada", three)]))
    assert [each.texts[1] for each in found] == ["Six minutes.", "No.", "No."]
    [found] = Argilla(None, 3).read(record(TWO, response_b_rating=[by("ada", 1)]))
    assert (found.texts, found.good) == (["It depends."], False)


def test_a_text_beside_a_reply_corrects_it_and_alone_it_is_one() -> None:
    [found] = Argilla().read(record(corrected_response=[by("ada", "Six, for a soft one.")]))
    assert (found.layout, found.texts) == ("preference", ["Six, for a soft one.", "Six minutes."])
    [found] = Argilla().read(record({"instruction": "Boil an egg?"}, answer=[by("ada", "Six minutes.")]))
    assert (found.layout, found.texts) == ("prompt-completion", ["Six minutes."])


def test_the_last_message_of_a_chat_is_the_reply() -> None:
    row = record({"chat": [*ASK, assistant("Six minutes.")]}, good=[by("ada", "no")])
    [found] = Argilla().read(row)
    assert (found.messages, found.texts, found.good) == (ASK, ["Six minutes."], False)
    assert row["fields"]["chat"][-1] == assistant("Six minutes.")


def test_of_several_questions_one_is_chosen() -> None:
    row = record(quality=[by("ada", 5)], safe=[by("ada", "no")])
    with pytest.raises(MalformedRow, match=r"--metric\): quality, safe"):
        Argilla().read(row)
    [found] = Argilla("safe").read(row)
    assert not found.good


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (record(), "nobody has submitted"),
        (record(quality=[by("ada", 5, status="discarded")]), "nobody has submitted"),
        (record(quality=[by("ada", 5)]), "quality is a number.*--threshold"),
        (record(topic=[by("ada", "cooking")]), "neither good nor bad"),
        (record(comment=[by("ada", "Hm, so so.")]), "no response to it says"),
        (record({"text": "Boil an egg?"}, good=[by("ada", "yes")]), "none of its fields"),
        (record({"prompt": "Egg?"}, good=[by("ada", "yes")]), "which reply good is about is not clear"),
        (record(TWO, good=[by("ada", "yes")]), "not clear, of response_a, response_b"),
        (record(TWO, order=[by("ada", [{"value": "c", "rank": 1}])]), "ranks what is no reply"),
        (record({"prompt": "a\0", "response": "b"}, good=[by("ada", "yes")]), "NUL"),
        ({"prompt": "a"}, "no record"),
    ],
)
def test_records_that_cannot_be_read_are_refused(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(MalformedRow, match=reason):
        Argilla().read(row)
