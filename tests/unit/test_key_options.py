"""`hearken keys` refuses a time that is none in one line, before it looks for a database."""

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from schemas.errors import StartError


@pytest.mark.parametrize(
    "words", [["create", "nightly", "--days", "1e9"], ["change", "key_1", "--days", "1e308"]]
)
def test_a_time_that_is_none_is_told_in_a_line(words: list[str]) -> None:
    found = CliRunner().invoke(app, ["keys", *words])
    assert isinstance(found.exception, StartError)
    assert found.exception.message.startswith("--days 1e+")
    assert "\n" not in found.exception.message
