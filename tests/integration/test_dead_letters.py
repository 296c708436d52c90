"""`hearken dead-letters` lists and retries dead letters."""

import json
import os
import subprocess
import sys

from feedback.postgres_log import PostgresLog
from schemas.database import Pool
from tests.events import event, ingest_until, learned, put_each, put_json


def dead_letters(database_url: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", "dead-letters", *options],
        env={**os.environ, "HEARKEN_DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_dead_letters_are_listed_with_the_reason_and_retried(pool: Pool, database_url: str) -> None:
    put_json(database_url, "lost", event("lost").model_dump(mode="json") | {"project": "lost"})
    put_each(database_url, "behind")
    ingest_until(pool, PostgresLog(pool), 1)

    listed = dead_letters(database_url, "--json")

    assert listed.returncode == 1, listed.stderr
    (letter,) = json.loads(listed.stdout)
    assert "foreign key" in letter["reason"]
    assert json.loads(letter["payload"])["event_id"] == "ev_lost"
    in_vain = dead_letters(database_url, "--retry")
    assert in_vain.returncode == 1
    assert "0 retried, 1 left" in in_vain.stdout
    with pool.connection() as connection:
        connection.execute("insert into projects (id) values ('lost')")

    mended = dead_letters(database_url, "--retry")

    assert mended.returncode == 0, mended.stderr
    assert "1 retried, 0 left" in mended.stdout
    assert learned(pool) == ["ev_behind", "ev_lost"]
