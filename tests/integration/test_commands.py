"""The commands of containers run with the settings that they get there only, and end on SIGTERM."""

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from deploy.cli import main
from schemas.database import Pool
from tests.broker import Broker
from tests.events import event, put
from tests.installation import started
from tests.training import add_key, send, small_settings, some_turns, thumbs_by_parity
from trainer.model.backbone import Backbone

SOON = 15.0
"""Limit of the time to end, seconds; Kubernetes and Compose allow more."""


def wait(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.1)


def ended(process: subprocess.Popen[str]) -> int:
    """Sends SIGTERM and returns the exit code."""
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=SOON)
    return process.returncode


def found(database_url: str, query: str) -> object:
    with psycopg.connect(database_url) as connection:
        row = connection.execute(query.encode()).fetchone()
    return row and row[0]


def test_a_relay_needs_no_base_and_no_data_folder(database_url: str) -> None:
    broker = Broker()
    broker.start()
    with psycopg.connect(database_url, autocommit=True) as connection:
        put(connection, event("a"))
    settings = {
        "HEARKEN_DATABASE_URL": database_url, "HEARKEN_KAFKA__SERVERS": f'["{broker.address}"]',
        "HEARKEN_MODEL": "/nowhere/base", "HEARKEN_DATA_DIR": "/nowhere",
    }  # fmt: skip
    try:
        with started("relay", **settings) as relay:
            wait(lambda: found(database_url, 'select 1 from outbox where "offset" is not null'), relay)
            assert ended(relay) == 0
    finally:
        broker.kill()


def test_a_judge_needs_no_base_and_no_data_folder(database_url: str) -> None:
    settings = {
        "HEARKEN_DATABASE_URL": database_url, "HEARKEN_JUDGE__URL": "http://127.0.0.1:9/v1",
        "HEARKEN_MODEL": "/nowhere/base", "HEARKEN_DATA_DIR": "/nowhere",
    }  # fmt: skip
    with started("judge", **settings) as judge:
        assert judge.stdout is not None
        assert "judge ready" in judge.stdout.readline()
        assert ended(judge) == 0


@pytest.mark.parametrize(
    ("words", "votes", "mark", "code"),
    [
        (["train"], 4, "trainer leads", 0),
        (["train"], 24, '"step"', 0),
        (["train", "--once"], 24, '"step"', 1),
    ],
    ids=["waiting for votes", "in a round", "in its one round"],
)
def test_a_trainer_ends_on_sigterm(
    words: list[str], votes: int, mark: str, code: int,
    database_url: str, tmp_path: Path, tiny_base: Path, pool: Pool, backbone: Backbone,
) -> None:  # fmt: skip
    add_key(pool)
    turns = some_turns(backbone, votes, seed=1)
    send(database_url, turns, thumbs_by_parity(turns))
    trainer = small_settings(database_url, tmp_path, tiny_base).trainer
    trainer.rl.steps_per_round = 100_000
    settings = {
        "HEARKEN_DATABASE_URL": database_url, "HEARKEN_DATA_DIR": str(tmp_path),
        "HEARKEN_MODEL": str(tiny_base), "HEARKEN_TRAINER": trainer.model_dump_json(),
    }  # fmt: skip
    with started(*words, **settings) as process:
        said = process.stdout
        assert said is not None
        wait(lambda: mark in said.readline(), process)
        assert ended(process) == code
    rounds = found(database_url, "select string_agg(outcome, ' ') from rounds")
    assert rounds == ("running" if votes == 24 else None)


@pytest.mark.parametrize(
    ("url", "said"), [(None, "of another release"), ("hearken:secret@db", "HEARKEN_DATABASE_URL")]
)
def test_a_database_that_no_command_can_use_is_told_in_a_line(
    postgres_url: str, url: str | None, said: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Without a URL here: the server's own database, which has no tables."""
    monkeypatch.setenv("HEARKEN_DATABASE_URL", url or postgres_url)
    monkeypatch.setattr("sys.argv", ["hearken", "policies"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert said in line
    assert "secret" not in line
