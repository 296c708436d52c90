"""Langfuse's scores are joined with the generations they are on, and what cannot be read has a reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.datasets.langfuse import Langfuse
from feedback.layouts import Judgement, assistant
from schemas.errors import StartError
from tests.tools import WEATHER
from tests.unit.test_tensorzero import read, tables

ASK = [{"role": "user", "content": "Boil an egg?"}]


def observation(id: str, **changes: Any) -> dict[str, Any]:
    """Returns a row of the enriched export, with its JSON as texts."""
    row = {
        "id": id,
        "trace_id": "t1",
        "type": "GENERATION",
        "start_time": "2026-05-29 13:46:19.963000",
        "provided_model_name": "gpt",
        "input": json.dumps(ASK),
        "output": json.dumps(assistant("Six minutes.")),
        "user_id": "ada",
    }
    return {**row, **changes}


def score(value: object, **changes: Any) -> dict[str, Any]:
    row = {"id": "s1", "timestamp": "2026-05-29", "trace_id": "t1", "observation_id": "o1", "name": "liked"}
    return {**row, "value": value, "source": "API", "data_type": "NUMERIC", "comment": None, **changes}


def in_the_apis_names(row: dict[str, Any]) -> dict[str, Any]:
    def camel(name: str) -> str:
        first, *others = name.split("_")
        return first + "".join(other.title() for other in others)

    return {camel(name): value for name, value in row.items()}


@pytest.mark.parametrize("names", [dict, in_the_apis_names])
def test_a_score_is_a_thumb_on_its_generation(tmp_path: Path, names: Any) -> None:
    files = tables(
        tmp_path,
        [names(observation("o1")), names(observation("unscored"))],
        [
            names(score(1, data_type="BOOLEAN", string_value="True", comment="Nice.")),
            names(score(0, id="s2", source="ANNOTATION", author_user_id="bob", data_type="BOOLEAN")),
            names(score(1, id="s3", observation_id="gone", data_type="BOOLEAN")),
        ],
    )
    (first, second), [reason] = read(Langfuse.of(files)[0])
    assert first == Judgement(
        "unpaired",
        ASK,
        [assistant("Six minutes.")],
        good=True,
        person="ada",
        model="gpt",
        comment="Nice.",
        key="langfuse s1",
    )
    assert (second.good, second.person) == (False, "bob")
    assert "no generation gone" in reason


def test_a_score_on_a_trace_is_on_its_output_or_on_its_last_generation(tmp_path: Path) -> None:
    late = observation("o2", start_time="2026-05-30", output="Ten, hard.")
    later = observation("o3", start_time="2026-05-31", type="SPAN", output="{}")
    on_trace = [score("good", observation_id=None), score("bad", id="s2", observation_id="", trace_id="t2")]
    trace = {"id": "t2", "timestamp": "2026-05-29", "user_id": "eve", "input": ASK, "output": "It depends."}
    unusable = {**trace, "id": "t1", "input": {"args": []}, "output": None}
    files = tables(tmp_path, [late, observation("o1"), later], on_trace, [trace, unusable])
    found, reasons = read(Langfuse.of(files)[0])
    assert reasons == []
    assert {(each.texts[0], each.good, each.person) for each in found} == {
        ("Ten, hard.", True, "ada"),
        ("It depends.", False, "eve"),
    }


def test_the_newest_form_of_a_score_counts(tmp_path: Path) -> None:
    scores = [score(0.9, updated_at="2026-06-02"), score(0.1, updated_at="2026-06-01")]
    files = tables(tmp_path, [observation("o1")], scores)
    [found], _ = read(Langfuse.of(files, threshold=0.5)[0])
    assert found.good


def test_numbers_need_a_threshold_and_several_scores_a_choice(tmp_path: Path) -> None:
    files = tables(tmp_path, [observation("o1")], [score(0.4), score("yes", id="s2", name="correct")])
    with pytest.raises(StartError, match=r"--metric.*correct, liked"):
        read(Langfuse.of(files)[0])
    with pytest.raises(StartError, match="--threshold"):
        read(Langfuse.of(files, "liked")[0])
    [found], _ = read(Langfuse.of(files, "correct")[0])
    assert found.good


def test_tools_and_thoughts_come_along(tmp_path: Path) -> None:
    function = {"name": "weather", "arguments": '{"city": "Rome"}'}
    message = {"content": None, "tool_calls": [{"id": "c1", "type": "function", "function": function}]}
    given = {"messages": ASK, "tools": [WEATHER], "temperature": 1}
    files = tables(tmp_path, [observation("o1", input=given, output=message)], [score("yes")])
    [found], _ = read(Langfuse.of(files)[0])
    assert found.tools == [WEATHER]
    assert found.replies[0]["tool_calls"][0]["function"] == function


@pytest.mark.parametrize(
    ("changes", "scored", "reason"),
    [
        ({}, {"source": "EVAL"}, "evaluator's score"),
        ({}, {"value": 2, "string_value": "cooking"}, "neither good nor bad"),
        ({"input": "{"}, {}, None),
        ({"input": None}, {}, "input must be"),
        ({"input": {"messages": []}}, {}, "input must be"),
        ({"input": [assistant("Hi")]}, {}, "must be the user's"),
        ({"output": None}, {}, "no reply"),
        ({"output": {"answer": 6}}, {}, "no reply"),
        ({"output": [*ASK]}, {}, "one message of the assistant"),
        ({"output": '{"answer": 6}'}, {}, None),
    ],
)
def test_scores_that_cannot_be_read_are_refused(
    tmp_path: Path, changes: dict[str, Any], scored: dict[str, Any], reason: str | None
) -> None:
    files = tables(tmp_path, [observation("o1", **changes)], [score(**{"value": "yes", **scored})])
    found, reasons = read(Langfuse.of(files, threshold=1)[0])
    assert len(found) == (reason is None)
    assert reason is None or reason in reasons[0]
