"""TensorZero's tables are joined, and what cannot be read has a reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.datasets.joined_tables import JoinedTables
from deploy.datasets.tensorzero import TensorZero
from feedback.layouts import Judgement, assistant
from schemas.errors import MalformedRow, StartError

ASK = {"role": "user", "content": [{"type": "text", "text": "Boil an egg?"}]}


def inference(id: str, **changes: Any) -> dict[str, Any]:
    """Returns a row of ChatInference, with its JSON as texts."""
    row = {
        "id": id,
        "function_name": "cook",
        "variant_name": "gpt",
        "episode_id": f"e-{id}",
        "input": json.dumps({"system": "Be brief.", "messages": [ASK]}),
        "output": json.dumps([{"type": "text", "text": "Six minutes."}]),
        "tags": {"user_id": "ada"},
    }
    return {**row, **changes}


def metric(target: str, value: object, name: str = "liked", id: str = "m1") -> dict[str, Any]:
    return {"id": id, "target_id": target, "metric_name": name, "value": value}


def tables(folder: Path, *files: list[dict[str, Any]]) -> list[Path]:
    found = []
    for number, rows in enumerate(files):
        found.append(folder / f"{number}.jsonl")
        found[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return found


def read(source: JoinedTables | None) -> tuple[list[Judgement], list[str]]:
    """Returns the judgements, and the reasons of those that are none."""
    assert source is not None
    found = [each for _, each, _ in source.judgements()]
    return (
        [each for each in found if isinstance(each, Judgement)],
        [each.message for each in found if isinstance(each, MalformedRow)],
    )


def test_the_newest_feedback_on_an_inference_is_its_thumb(tmp_path: Path) -> None:
    files = tables(
        tmp_path,
        [inference("a"), inference("b"), inference("unjudged")],
        [metric("a", False, id="m1"), metric("a", True, id="m2"), metric("b", False), metric("gone", True)],
        [{"id": "c1", "target_id": "a", "target_type": "inference", "value": "Nice."}],
        [{"chosen": "x", "rejected": "y"}],
    )
    source, others = TensorZero.of(files)
    assert others == files[3:]
    (first, second), reasons = read(source)
    assert first == Judgement(
        "unpaired",
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Boil an egg?"}],
        [assistant("Six minutes.")],
        good=True,
        person="ada",
        model="gpt",
        comment="Nice.",
        key="tensorzero a",
    )
    assert not second.good
    assert reasons == ["the files have no inference gone, on which there is feedback"]


def test_a_demonstration_is_preferred_to_the_reply(tmp_path: Path) -> None:
    shown = json.dumps([{"type": "text", "text": "Six, for a soft one."}])
    files = tables(tmp_path, [inference("a")], [{"id": "d", "inference_id": "a", "value": shown}])
    [found], _ = read(TensorZero.of(files)[0])
    assert (found.layout, found.texts) == ("preference", ["Six, for a soft one.", "Six minutes."])


def test_numbers_need_a_threshold_and_several_metrics_a_choice(tmp_path: Path) -> None:
    files = tables(tmp_path, [inference("a")], [metric("a", 0.4, "score"), metric("a", True, "liked")])
    with pytest.raises(StartError, match=r"--metric.*liked, score"):
        read(TensorZero.of(files)[0])
    with pytest.raises(StartError, match="--threshold"):
        read(TensorZero.of(files, "score")[0])
    [found], _ = read(TensorZero.of(files, "score", 0.5)[0])
    assert not found.good


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"input": "{"}, "input is no JSON"),
        ({"input": {"messages": []}}, "must be the user's"),
        ({"input": {"messages": [{"role": "tool", "content": "x"}]}}, "without a role"),
        ({"input": {"messages": [{"role": "user", "content": [{"type": "image"}]}]}}, "more than text"),
        ({"input": None}, "no messages"),
        ({"output": [{"type": "tool_call", "name": "f"}]}, "more than text"),
        ({"output": ""}, "no JSON"),
        ({"output": [{"type": "text", "text": " "}]}, "output is empty"),
    ],
)
def test_inferences_that_cannot_be_read_are_refused(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    files = tables(tmp_path, [inference("a", **changes)], [metric("a", True)])
    found, [said] = read(TensorZero.of(files)[0])
    assert found == []
    assert reason in said


def test_feedback_without_inferences_is_no_table_of_its_own(tmp_path: Path) -> None:
    files = tables(tmp_path, [metric("a", True)])
    assert TensorZero.of(files) == (None, files)
