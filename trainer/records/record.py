"""The record of a round is a row of the table `rounds`, with a JSON file and an HTML page beside it.

The row is opened before the work and closed with the outcome. A trainer that starts and finds an open row
closes it as failed: its process died (`interruptions`). The files are written after the row; the next start
writes them if the process died in between.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from psycopg.types.json import Jsonb

from schemas.database import Pool
from schemas.files import private_folder
from schemas.settings import Settings
from trainer.records.report import page

AT_ONCE = 100
"""Records that are read at once."""


@dataclass(frozen=True, slots=True)
class RoundRow:
    """A round's row: its id in the table, and its number within the project, from 1."""

    id: int
    number: int


@dataclass(frozen=True, slots=True)
class Ending:
    """How a round ended: published, rejected, skipped or failed, and why it was not published."""

    outcome: str
    reason: str | None = None


@dataclass(slots=True)
class RoundRecord:
    """What a round records of its data, its training and its evaluation; None where it did not get so far.

    `votes` had arrived when it began. `restart` tells that it started from the base as one of
    `restart_rounds`. `examples_past` counts the votes of the vote summary; `examples_new` and
    `held_out_unseen` count the training and held-out votes that no policy had trained on.
    `votes_truncated` counts the votes whose replies were read with the end of their prompt only, since the
    whole is too long, `prompts_too_long` the turns that were left out of training for that.
    `demonstrations` counts those that the round had to begin with, and `supervised` tells what became of it.
    `knowledge` counts the knowledge questions, and says so if they are too few.
    `hyperparameters` are the derived ones, each with its value and where it comes from.
    `cautions` has the levels of the constraints that blocked candidates before it, `blocked` some replies of
    its candidate for each constraint that blocked it.
    `policy` is what it made, also where the gate refused it.
    `criteria` has each criterion's mentions and its shares before and after, `criteria_ignored` counts what
    people said about the replies that could not be used. `clusters` counts the raters who vote alike beyond
    chance; `rests_on` has those without whom the gate would not pass the candidate.
    """

    votes: int
    parent: str
    restart: bool | None = None
    seed: int | None = None
    draw: int | None = None
    versions: dict[str, str] | None = None
    examples: int | None = None
    examples_past: int | None = None
    examples_new: int | None = None
    unreadable: int | None = None
    votes_truncated: int | None = None
    held_out: int | None = None
    held_out_unseen: int | None = None
    prompts: int | None = None
    demonstrations: int | None = None
    prompts_too_long: int | None = None
    knowledge: dict[str, Any] | None = None
    hyperparameters: dict[str, Any] | None = None
    cautions: dict[str, int] | None = None
    regression_test: dict[str, Any] | None = None
    reward_model: dict[str, Any] | None = None
    supervised: dict[str, Any] | None = None
    optimization: dict[str, Any] | None = None
    criteria: dict[str, Any] | None = None
    criteria_ignored: dict[str, Any] | None = None
    style: dict[str, dict[str, float]] | None = None
    samples: list[dict[str, str]] | None = None
    weightiest: list[dict[str, Any]] | None = None
    raters: list[dict[str, Any]] | None = None
    gate: dict[str, Any] | None = None
    blocked: dict[str, list[str]] | None = None
    clusters: list[dict[str, Any]] | None = None
    rests_on: list[dict[str, Any]] | None = None
    policy: str | None = None
    traceback: str | None = None
    seconds: float | None = None

    def as_json(self) -> dict[str, Any]:
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if value is not None}


def complete(pool: Pool, settings: Settings) -> None:
    """Writes the files of the last round if they are missing."""
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
        _write(settings, row["number"], Ending(row["outcome"], row["reason"]), {**row["record"], **policy})


def knowledge_lost(pool: Pool, project: str) -> float:
    """Returns the accuracy drop that the gate measured last, on a candidate that passed or not; 0 before the
    first."""
    with pool.connection() as connection:
        row = connection.execute(
            "select (record #>> '{gate,figures,knowledge_lost}')::double precision as lost from rounds"
            " where project = %s and record #> '{gate,figures}' ? 'knowledge_lost' order by id desc limit 1",
            [project],
        ).fetchone()
    return float(row["lost"]) if row else 0.0


def last_learning_rate(pool: Pool, project: str) -> float | None:
    """Returns the learning rate that the trust region of the last round found; None before the first."""
    with pool.connection() as connection:
        row = connection.execute(
            "select (record #>> '{optimization,learning_rate}')::double precision as rate from rounds"
            " where project = %s and record -> 'optimization' ? 'learning_rate' order by id desc limit 1",
            [project],
        ).fetchone()
    return float(row["rate"]) if row else None


def blocked(pool: Pool, project: str, candidates: int) -> list[list[str]]:
    """Returns the constraints that blocked each of the newest candidates."""
    with pool.connection() as connection:
        rows = connection.execute(
            "select record #> '{gate,figures,constraints}' as constraints from rounds"
            " where project = %s and record #> '{gate,figures}' ? 'constraints'"
            " order by id desc limit %s",
            [project, candidates],
        ).fetchall()
    return [[name for name, each in row["constraints"].items() if each["state"] == "blocked"] for row in rows]


@dataclass(frozen=True, slots=True)
class RoundOf:
    """What the round of a policy found for the next one, and the policy that it rebuilds."""

    rebuilds: str | None
    learning_rate: float | None
    knowledge_lost: float | None


def of_policy(pool: Pool, project: str, policy: str) -> RoundOf | None:
    """Returns what the round of a policy found; None where there is no such round."""
    with pool.connection() as connection:
        row = connection.execute(
            "select p.rebuilds,"
            " (r.record #>> '{optimization,learning_rate}')::double precision as learning_rate,"
            " (r.record #>> '{gate,figures,knowledge_lost}')::double precision as knowledge_lost"
            " from rounds r join policies p on p.project = r.project and p.id = r.policy"
            " where r.project = %s and r.policy = %s",
            [project, policy],
        ).fetchone()
    return RoundOf(**row) if row else None


def begin(pool: Pool, project: str, parent: str) -> RoundRow:
    """Opens a round."""
    with pool.connection() as connection, connection.transaction():
        row = connection.execute(
            "insert into rounds (project, parent, outcome) values (%s, %s, 'running')"
            " returning id, (select count(*) from rounds where project = %s) + 1 as number",
            [project, parent, project],
        ).fetchone()
    assert row is not None  # noqa: S101  (insert … returning gives its row)
    return RoundRow(row["id"], row["number"])


@dataclass(frozen=True, slots=True)
class LastRound:
    """The last round that was not interrupted: its row, how many votes had arrived when it began, how long
    ago that was, and how long it took, seconds."""

    id: int
    votes: int
    age: float
    took: float


def last_round(pool: Pool, project: str) -> LastRound | None:
    """Returns the last round that ended and was not interrupted; None before the first."""
    with pool.connection() as connection:
        row = connection.execute(
            "select id, (record ->> 'votes')::int as votes,"
            " extract(epoch from now() - started_at)::double precision as age,"
            " coalesce(extract(epoch from ended_at - started_at), 0)::double precision as took"
            " from rounds where project = %s and record ? 'votes'"
            " and not coalesce(starts_with(reason, 'interrupted'), false) order by id desc limit 1",
            [project],
        ).fetchone()
    return LastRound(**row) if row else None


def votes_at_last_round(pool: Pool, project: str) -> int:
    """Returns how many votes had arrived when the last uninterrupted round began."""
    found = last_round(pool, project)
    return found.votes if found else 0


def is_running(pool: Pool, project: str) -> bool:
    """Whether a round is open, be it that its trainer died."""
    with pool.connection() as connection:
        row = connection.execute(
            "select exists (select from rounds where project = %s and outcome = 'running') as found",
            [project],
        ).fetchone()
    return bool(row and row["found"])


def hold_out(pool: Pool, row: RoundRow, events: list[str]) -> None:
    """Notes which votes the round keeps back for its gate, so that their authors can be told."""
    with pool.connection() as connection:
        connection.execute(
            "update training_examples set held_out_in = %s where event_id = any(%s)", [row.id, events]
        )


def finish(pool: Pool, settings: Settings, row: RoundRow, ending: Ending, record: RoundRecord) -> bool:
    """Closes the round and writes its files. The outcome of a round that made a policy is already set, in the
    transaction of the policy. Returns False if another trainer has closed the round."""
    found, is_now = finite(record.as_json()), ending.outcome if record.policy else "running"
    with pool.connection() as connection:
        closed = connection.execute(
            "update rounds set outcome = %s, reason = %s, record = %s, ended_at = now()"
            " where id = %s and outcome = %s",
            [ending.outcome, ending.reason, Jsonb(found), row.id, is_now],
        )
    if closed.rowcount == 0:
        return False
    _write(settings, row.number, ending, found)
    return True


def finite(value: Any) -> Any:
    """Returns the value with None for numbers that are not finite, which JSON does not have."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {name: finite(each) for name, each in value.items()}
        case list() | tuple():
            return [finite(each) for each in value]
        case _:
            return value


def forget(
    pool: Pool, settings: Settings, raters: Sequence[str], policies: Sequence[str], since: datetime | None
) -> int:
    """Removes people from the records of rounds and from their files: the rows of their votes, tracebacks
    that name them, and the samples of rounds that trained on them: those of `policies`, and since that time
    those that made no policy. Returns how many records were changed."""
    changed, after, number = 0, 0, 0
    while True:
        with pool.connection() as connection:
            rows = connection.execute(
                "select id, outcome, reason, policy, record, started_at from rounds"
                " where project = %s and id > %s order by id limit %s",
                [settings.project, after, AT_ONCE],
            ).fetchall()
        for row in rows:
            after, number = row["id"], number + 1
            trained = row["policy"] in policies if row["policy"] else since and row["started_at"] >= since
            left = _without(row["record"], set(raters), bool(trained))
            if left == row["record"]:
                continue
            policy = {"policy": row["policy"]} if row["policy"] else {}
            _write(settings, number, Ending(row["outcome"], row["reason"]), {**left, **policy})
            with pool.connection() as connection:  # last, so that whoever dies before begins again
                connection.execute("update rounds set record = %s where id = %s", [Jsonb(left), row["id"]])
            changed += 1
        if len(rows) < AT_ONCE:
            return changed


def _without(record: dict[str, Any], raters: set[str], trained: bool) -> dict[str, Any]:
    left = {name: value for name, value in record.items() if name != "blocked"}
    for name in ("weightiest", "raters", "rests_on"):
        if isinstance(record.get(name), list):
            left[name] = [each for each in record[name] if each.get("rater") not in raters]
    if any(rater in str(record.get("traceback")) for rater in raters):
        del left["traceback"]
    if trained:
        left.pop("samples", None)
    return left


def _paths(settings: Settings, number: int) -> tuple[Path, Path]:
    """Returns the paths of a round's JSON file and of its page."""
    folder = settings.rounds_dir / settings.project
    return folder / f"{number:05d}.json", folder / f"{number:05d}.html"


def _write(settings: Settings, number: int, ending: Ending, record: dict[str, Any]) -> None:
    whole = {"round": number, "outcome": ending.outcome, "reason": ending.reason, **record}
    texts = json.dumps(whole, indent=2) + "\n", page(whole)
    for path, text in zip(_paths(settings, number), texts, strict=True):
        private_folder(path.parent)
        draft = path.with_suffix(path.suffix + ".draft")
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
