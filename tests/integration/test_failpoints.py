"""Failpoints kill a process before or after a commit, however its transaction began (`tests.crashing`)."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import LiteralString

import pytest

from schemas.database import Pool
from tests.failpoints import Failpoints

RUNNING: LiteralString = "insert into rounds (project, parent, outcome) values ('default', 'p0', 'running')"
BEGUN_BY_ITSELF = "from trainer.records.interruptions import close; close(pool, 'default')"
BEGUN_EXPLICITLY = "from trainer.records.record import begin; begin(pool, 'default', 'p0')"
PROGRAM = "from schemas.database import open_pool\nwith open_pool({url!r}) as pool: {work}"


def die(folder: Path, failpoint: str, url: str, work: str) -> None:
    failpoints = Failpoints(folder)
    (folder / "armed" / failpoint).touch()
    program = PROGRAM.format(url=url, work=work)
    ended = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **failpoints.environment}, cwd=Path.cwd()
    )
    assert ended.returncode == -signal.SIGKILL
    assert (folder / "fired" / failpoint).exists()


def outcomes(pool: Pool) -> list[str]:
    with pool.connection() as connection:
        return [row["outcome"] for row in connection.execute("select outcome from rounds order by id")]


@pytest.mark.parametrize(("side", "after"), [("before", ["running"]), ("after", ["failed"])])
def test_one_that_began_with_its_first_statement(
    side: str, after: list[str], pool: Pool, database_url: str, tmp_path: Path
) -> None:
    with pool.connection() as connection:
        connection.execute(RUNNING)
    die(tmp_path, f"trainer.records.interruptions.close {side}", database_url, BEGUN_BY_ITSELF)
    assert outcomes(pool) == after


@pytest.mark.parametrize(("side", "after"), [("before", []), ("after", ["running"])])
def test_one_that_was_begun_explicitly(
    side: str, after: list[str], pool: Pool, database_url: str, tmp_path: Path
) -> None:
    die(tmp_path, f"trainer.records.record.begin {side}", database_url, BEGUN_EXPLICITLY)
    assert outcomes(pool) == after
    with pool.connection() as connection:
        row = connection.execute(RUNNING + " returning id").fetchone()
    assert row is not None
    assert row["id"] == 2, "it died before it wrote anything"
