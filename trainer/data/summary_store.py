"""This module keeps the vote summary in step with the database: in files, and marks on training examples.

A vote that was superseded, erased or is past its retention is taken out of its week by its row (`vote_rows`).
Where that is not possible, because a file is damaged or a trainer died between file and database, this week
alone is discarded. Its votes wait for the rounds to come, which load a limited number of them each beside all
newer ones and compact them anew (`examples.REBUILT`). While they wait they count nothing.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import LiteralString

import structlog

from feedback.quarantine import TEACHES
from schemas.database import Pool
from schemas.files import private_folder
from trainer.data import vote_rows, week_summary
from trainer.data.examples import Erased
from trainer.data.vote_rows import RowsMissing, VoteRows
from trainer.data.vote_summary import FILE, VoteSummary, files
from trainer.data.week_summary import WeekSummary

FILE_BEFORE = "past.safetensors"
"""The file of a release before, which is not read any more."""

_ACTIVE: LiteralString = """
select {what} from training_examples e
join turns t on t.id = e.turn_id
join feedback f on f.id = e.feedback_id
where e.project = %s and e.superseded_by is null and {teaches}
"""

log = structlog.get_logger("trainer")


def save(
    summary: VoteSummary, pool: Pool, project: str, directory: Path, rows: VoteRows | None = None
) -> None:
    """Writes the files, and the rows of the votes that are new, and marks the votes in the database. After a
    crash between the two, `revise` finds the weeks that differ."""
    private_folder(directory)
    if rows is not None:
        rows.write(directory)
    with pool.connection() as connection, connection.transaction():
        for week in summary.weeks:
            connection.execute(
                "update training_examples set vote_summary = %s, recompact = false"
                " where project = %s and event_id = any(%s)",
                [week.name, project, week.events[week.marked :]],
            )
        connection.execute(
            "update training_examples e set vote_summary = null, recompact = superseded_by is null"
            " and exists (select from feedback f where f.id = e.feedback_id)"
            " where project = %s and vote_summary is not null and vote_summary <> all(%s)",
            [project, [week.name for week in summary.weeks]],
        )
        summary.write(directory)
    _remove_unused(summary, directory)


def revise(summary: VoteSummary, pool: Pool, project: str, directory: Path) -> VoteSummary:
    """Returns the summary of the votes that are still active, by the database, and saves it if it is
    another."""
    active = _active_by_week(pool, project)
    weeks: list[WeekSummary] = []
    read = cache(lambda name: VoteRows.read(directory, name))
    changed = bool(summary.lost) or not active.keys() <= {week.name for week in summary.weeks}
    for week in summary.weeks:
        if active.get(week.name, 0) == len(week.events):
            weeks.append(week)
            continue
        changed = True
        left = _active_part(summary, week, _active_events(pool, project, week.name), read)
        weeks += [left] if left is not None else []
    if not changed:
        return summary
    found = replace(summary, weeks=tuple(weeks), lost=0)
    gone = set(summary.events) - set(found.events)
    _delete_rows(gone, {name for week in weeks for name in week.batches}, directory, read)
    _keep_for_later(gone, pool, project)
    save(found, pool, project, directory)
    return found


def discard(pool: Pool, project: str, directory: Path) -> None:
    """Removes the summary in a directory and unmarks its votes."""
    patterns = (FILE, week_summary.PATTERN, vote_rows.PATTERN, FILE_BEFORE)
    found = [path for pattern in patterns for path in directory.glob(pattern)]
    if found:
        log.warning("vote summary discarded, all votes are read again")
    for path in found:
        path.unlink()
    with pool.connection() as connection:
        connection.execute(
            "update training_examples set vote_summary = null, recompact = false"
            " where project = %s and (vote_summary is not null or recompact)",
            [project],
        )


def require_present(summary: VoteSummary, pool: Pool, project: str) -> None:
    """Raises Erased when some of its votes, active or not, or their turns, are gone."""
    with pool.connection() as connection:
        row = connection.execute(
            "select count(*) from training_examples e join turns t on t.id = e.turn_id"
            " join feedback f on f.id = e.feedback_id where e.project = %s and e.event_id = any(%s)",
            [project, summary.events],
        ).fetchone()
    assert row is not None  # noqa: S101  (an aggregate gives its row)
    if row["count"] < len(summary.events):
        raise Erased("votes", len(summary.events) - row["count"], len(summary.events))


def without_erased(summary: VoteSummary, pool: Pool, project: str, directory: Path) -> VoteSummary:
    """Returns a policy's summary without the votes that are no longer stored; their rows are in `directory`.
    A week that they cannot be taken out of goes as a whole."""
    with pool.connection() as connection:
        rows = connection.execute(
            "select e.event_id from training_examples e join turns t on t.id = e.turn_id"
            " join feedback f on f.id = e.feedback_id where e.project = %s and e.event_id = any(%s)",
            [project, summary.events],
        ).fetchall()
    held = {row["event_id"] for row in rows}
    read = cache(lambda name: VoteRows.read(directory, name))
    weeks = [
        week
        if held.issuperset(week.events)
        else _active_part(summary, week, held.intersection(week.events), read)
        for week in summary.weeks
    ]
    return replace(summary, weeks=tuple(week for week in weeks if week is not None), lost=0)


def _active_part(
    summary: VoteSummary, week: WeekSummary, active: set[str], read: Callable[[str], VoteRows]
) -> WeekSummary | None:
    """Returns the week with its active votes only; None if it has none or must be compacted anew."""
    gone = {event for event in week.events if event not in active}
    if len(gone) == len(week.events):
        log.info("week of the vote summary dropped", votes=len(gone))
        return None
    try:
        if not active <= set(week.events):
            raise RowsMissing("the database has other votes of this week")
        left = week.without(gone, read, summary.trainer.reward)
    except RowsMissing as error:
        log.warning("week of the vote summary is compacted anew", votes=len(active), reason=error.message)
        return None
    log.info("votes taken out of the vote summary", votes=len(gone))
    return left


def _delete_rows(
    gone: set[str], batches: Iterable[str], directory: Path, read: Callable[[str], VoteRows]
) -> None:
    """Deletes the rows of votes that the summary no longer has, before it is saved: a trainer that dies in
    between leaves a week that must be compacted anew, and no rows of erased votes."""
    for name in batches:
        try:
            rows = read(name)
            if not gone.isdisjoint(rows.events):
                rows.without(gone).write(directory)
        except RowsMissing as error:
            log.warning("rows of compacted votes are missing", reason=error.message)


def _keep_for_later(gone: set[str], pool: Pool, project: str) -> None:
    """Marks votes that were taken out since their raters are in quarantine: they are compacted anew, should
    an operator accept these."""
    with pool.connection() as connection:
        connection.execute(
            "update training_examples set vote_summary = null, recompact = true"
            " where project = %s and event_id = any(%s) and superseded_by is null and rater in"
            " (select rater from quarantine where project = %s and state <> 'accepted')",
            [project, list(gone), project],
        )


def _remove_unused(summary: VoteSummary, directory: Path) -> None:
    kept = {path.name for path in files(directory)}
    kept |= {vote_rows.file_of(directory, name).name for week in summary.weeks for name in week.batches}
    for pattern in (week_summary.PATTERN, vote_rows.PATTERN, FILE_BEFORE):
        for path in directory.glob(pattern):
            if path.name not in kept:
                path.unlink()


def _active_by_week(pool: Pool, project: str) -> dict[str, int]:
    """Returns the number of active compacted votes by the name of their week."""
    with pool.connection() as connection:
        rows = connection.execute(
            _ACTIVE.format(what="e.vote_summary, count(*)", teaches=TEACHES)
            + " and e.vote_summary is not null group by 1",
            [project],
        ).fetchall()
    return {row["vote_summary"]: row["count"] for row in rows}


def _active_events(pool: Pool, project: str, name: str) -> set[str]:
    """Returns the active votes that are compacted in a week."""
    with pool.connection() as connection:
        rows = connection.execute(
            _ACTIVE.format(what="e.event_id", teaches=TEACHES) + " and e.vote_summary = %s", [project, name]
        ).fetchall()
    return {row["event_id"] for row in rows}
