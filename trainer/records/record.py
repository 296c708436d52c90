"""The record of a round: a row of `rounds`, and a JSON file and a page for people beside it.

The row is opened before the work and closed with its outcome, so a round whose process died is found open
by the next start, which closes it as failed. The files follow the row, and are written by the next start
where the process died between the two.
"""

import json
import math
from pathlib import Path
from typing import Any

from psycopg.types.json import Jsonb

from schemas.database import Pool
from schemas.settings import Settings
from trainer.records.report import page


def close_interrupted(pool: Pool, project: str) -> int:
    """Close the rounds that a dead trainer left open; returns how many."""
    with pool.connection() as connection:
        return connection.execute(
            "update rounds set outcome = 'failed', reason = 'interrupted', ended_at = now()"
            " where project = %s and outcome = 'running'",
            [project],
        ).rowcount


def complete(pool: Pool, settings: Settings) -> None:
    """Write the files of the last round, where they are missing."""
    with pool.connection() as connection:
        row = connection.execute(
            "select outcome, reason, policy, record, count(*) over () as number from rounds"
            " where project = %s order by id desc limit 1",
            [settings.project],
        ).fetchone()
    if row is None or row["outcome"] == "running":
        return
    if not all(path.exists() for path in _paths(settings, row["number"])):
        policy = {"policy": row["policy"]} if row["policy"] else {}
        _write(settings, row["number"], row["outcome"], row["reason"], {**row["record"], **policy})


def was_cut_off(pool: Pool, project: str) -> bool:
    """Whether the last round was, by the end of its trainer."""
    with pool.connection() as connection:
        row = connection.execute(
            "select reason from rounds where project = %s order by id desc limit 1", [project]
        ).fetchone()
    return row is not None and row["reason"] == "interrupted"


def knowledge_lost(pool: Pool, project: str) -> float:
    """What the gate measured last, of a candidate that passed or not, as a share of the probes; 0 before the
    first."""
    with pool.connection() as connection:
        row = connection.execute(
            "select (record #>> '{gate,figures,knowledge_lost}')::double precision as lost from rounds"
            " where project = %s and record #> '{gate,figures}' ? 'knowledge_lost' order by id desc limit 1",
            [project],
        ).fetchone()
    return float(row["lost"]) if row else 0.0


def begin(pool: Pool, project: str, parent: str) -> tuple[int, int]:
    """Open a round; returns its row's id and its number within the project, from 1."""
    with pool.connection() as connection, connection.transaction():
        row = connection.execute(
            "insert into rounds (project, parent, outcome) values (%s, %s, 'running')"
            " returning id, (select count(*) from rounds where project = %s) + 1 as number",
            [project, parent, project],
        ).fetchone()
    assert row is not None  # noqa: S101  (insert … returning gives its row)
    return row["id"], row["number"]


def votes_at_last_round(pool: Pool, project: str) -> int:
    """How many votes had arrived when the last round began that was not interrupted."""
    with pool.connection() as connection:
        row = connection.execute(
            "select record -> 'votes' as votes from rounds where project = %s and record ? 'votes'"
            " and reason is distinct from 'interrupted' order by id desc limit 1",
            [project],
        ).fetchone()
    return int(row["votes"]) if row else 0


def finish(
    pool: Pool,
    settings: Settings,
    round_id: int,
    number: int,
    outcome: str,
    reason: str | None,
    record: dict[str, Any],
) -> bool:
    """Close the row (a published round's outcome is set with its policy already) and write the files. False
    for a round that another trainer closed, which stays as that left it."""
    record = finite(record)
    with pool.connection() as connection:
        closed = connection.execute(
            "update rounds set outcome = %s, reason = %s, record = %s, ended_at = now()"
            " where id = %s and outcome in ('running', %s)",
            [outcome, reason, Jsonb(record), round_id, outcome],
        )
    if closed.rowcount == 0:
        return False
    _write(settings, number, outcome, reason, record)
    return True


def finite(value: Any) -> Any:
    """The same with None for numbers that are not finite, which JSON does not have."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {name: finite(each) for name, each in value.items()}
        case list() | tuple():
            return [finite(each) for each in value]
        case _:
            return value


def _paths(settings: Settings, number: int) -> tuple[Path, Path]:
    """Of a round's figures, and of its page."""
    folder = settings.rounds_dir / settings.project
    return folder / f"{number:05d}.json", folder / f"{number:05d}.html"


def _write(settings: Settings, number: int, outcome: str, reason: str | None, record: dict[str, Any]) -> None:
    whole = {"round": number, "outcome": outcome, "reason": reason, **record}
    texts = json.dumps(whole, indent=2) + "\n", page(whole)
    for path, text in zip(_paths(settings, number), texts, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(path.suffix + ".draft")
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
