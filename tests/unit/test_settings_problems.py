"""Wrong settings, and a database or broker that is away, are told in one line that names place and remedy."""

from pathlib import Path

import psycopg
import pytest
from kafka.errors import KafkaConnectionError
from pydantic import ValidationError
from structlog.testing import capture_logs

from deploy.local.postgres import database
from deploy.settings_problems import describe, misspelt_variables
from feedback import broker
from schemas.database import database_away
from schemas.errors import StartError
from schemas.settings import KafkaSettings, load


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def problems() -> list[str]:
    with pytest.raises(ValidationError) as error:
        load()
    return describe(error.value)


def test_an_unknown_setting_says_where_it_stands_and_what_was_meant(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "hearken.toml").write_text("prot = 8000\n[trainer.rl]\nlearning_rat = 1\n")
    monkeypatch.setenv("HEARKEN_SERVING__MAX_TOKEN", "5")
    file = folder / "hearken.toml"
    assert sorted(problems()) == [
        f"there is no setting prot (in {file}); did you mean port?",
        "there is no setting serving.max_token (in HEARKEN_SERVING__MAX_TOKEN); did you mean max_tokens?",
        f"there is no setting trainer.rl.learning_rat (in {file}); did you mean learning_rate?",
    ]


def test_a_wrong_value_says_where_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEARKEN_TRAINER__SEED", "many")
    [line] = problems()
    assert line.startswith("setting trainer.seed (in HEARKEN_TRAINER__SEED): Input should be a valid integer")


def test_a_variable_that_is_nearly_a_setting_is_named() -> None:
    environment = {"HEARKEN_PORTT": "1", "HEARKEN_SERVICE_HOST": "10.0.0.1", "HEARKEN_PORT": "2"}
    assert misspelt_variables(environment) == ["HEARKEN_PORTT is no setting; did you mean HEARKEN_PORT?"]


def test_a_file_that_is_not_toml(folder: Path) -> None:
    (folder / "hearken.toml").write_text("port = [1,\n")
    with pytest.raises(StartError, match=rf"^{folder}/hearken.toml is not valid TOML: .*"):
        load()


@pytest.mark.parametrize("text", ["one:9092, two:9092", '["one:9092", "two:9092"]'])
def test_a_list_may_be_plain_text(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("HEARKEN_KAFKA__SERVERS", text)
    assert load().kafka.servers == ["one:9092", "two:9092"]


def test_a_section_is_no_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEARKEN_KAFKA", "one:9092")
    with pytest.raises(StartError, match="HEARKEN_KAFKA__NAME"):
        load()


def test_a_data_folder_of_another_postgres(folder: Path) -> None:
    """Where a command alone asks for the database, which it would stop in the end, too."""
    (folder / "postgres").mkdir()
    (folder / "postgres" / "PG_VERSION").write_text("16\n")
    said = r"is the folder of another Postgres \(.*16.*\)\. Dump it"
    with pytest.raises(StartError, match=said), database(load(data_dir=folder)):
        pytest.fail("it started")


def test_a_database_that_is_away_is_one_line() -> None:
    error = psycopg.OperationalError("connection failed: refused\n\tIs the server running on that host?")
    assert database_away(error) == (
        "The database does not answer: connection failed: refused. Start it, or correct HEARKEN_DATABASE_URL."
    )


def test_a_broker_that_is_away_is_named_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("feedback.broker.time.monotonic", lambda: clock[0])
    notice = broker.BrokerNotice(KafkaSettings(servers=["one:9092"]))
    with capture_logs() as logs:
        for clock[0] in (1_000.0, 1_030.0, 1_059.0, 1_060.0):
            notice.away(KafkaConnectionError("refused"))
    assert [(line["event"], line["servers"]) for line in logs] == [("broker is away", ["one:9092"])] * 2
