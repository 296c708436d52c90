"""/openapi.json describes the bodies that routes read and validate themselves."""

from collections.abc import Iterator
from typing import Any

import pytest

from schemas.settings import Settings, VllmSettings
from serving.app import create_app


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    settings = Settings(database_url="postgresql://nowhere", vllm=VllmSettings(urls=["http://nowhere"]))
    return create_app(settings).openapi()


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, each in value.items():
            if name == "$ref":
                yield each
            else:
                yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def found(document: dict[str, Any], reference: str) -> dict[str, Any]:
    value: Any = document
    for step in reference.removeprefix("#/").split("/"):
        value = value[step.replace("~1", "/").replace("~0", "~")]
    assert isinstance(value, dict)
    return value


def body(document: dict[str, Any], path: str) -> dict[str, Any]:
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert isinstance(schema, dict)
    return schema


def test_every_reference_resolves(document: dict[str, Any]) -> None:
    every = list(references(document))
    assert len(every) > 10
    assert all(found(document, reference) for reference in every)


def test_a_vote_is_one_of_four_types_and_has_an_idempotency_key(document: dict[str, Any]) -> None:
    kinds = [found(document, each["$ref"]) for each in body(document, "/v1/feedback")["anyOf"]]
    types = [kind["properties"]["type"]["const"] for kind in kinds]
    assert types == ["thumb", "ranking", "edit", "signal"]
    assert all("completion_id" in kind["required"] for kind in kinds)
    for path in ("/v1/feedback", "/v1/feedback/batch"):
        parameters = document["paths"][path]["post"]["parameters"]
        assert [each["name"] for each in parameters] == ["Idempotency-Key"]


def test_a_chat_needs_messages(document: dict[str, Any]) -> None:
    chat = body(document, "/v1/chat/completions")
    assert chat["required"] == ["messages"]
    assert {"stream", "n", "temperature", "metadata", "store"} <= chat["properties"].keys()


def test_a_project_says_what_is_learned(document: dict[str, Any]) -> None:
    [reference] = references(body(document, "/v1/projects")["properties"]["learning"])
    assert found(document, reference)["properties"].keys() == {
        "groups", "criteria_weights", "may_not_fall", "max_fall", "tainted_policy"
    }  # fmt: skip
