"""`hearken export` refuses a filter that no vote can pass, before it looks for a database."""

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from schemas.errors import StartError


@pytest.mark.parametrize("words", [["--type", "thumbs"], ["--value", "good"]])
def test_an_unknown_type_or_value_is_wrong_usage(words: list[str]) -> None:
    assert CliRunner().invoke(app, ["export", *words]).exit_code == 2


def test_a_tag_names_its_value() -> None:
    found = CliRunner().invoke(app, ["export", "--tag", "team"])
    assert isinstance(found.exception, StartError)
    assert "key=value" in found.exception.message
