"""This module writes, lists and retries dead letters of the log.

An event becomes a dead letter if this code cannot read it or the database refuses it (`ingest`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from psycopg import Connection, DataError, IntegrityError
from psycopg.rows import DictRow, class_row

from feedback.log import Entry, NewerVersion, Unreadable, read_event
from schemas.database import Pool
from trainer.data.apply_event import apply_event, refusal

AT_ONCE = 1_000
"""Dead letters that are read at once."""

_OLDEST = """
select log, partition, position, reason, payload, created_at from dead_letters
order by created_at, log, partition, position limit %s
"""
_NEXT = """
select log, partition, position, reason, payload, created_at from dead_letters
where (log, partition, position) > (%s, %s, %s) order by log, partition, position limit %s
"""

logger = structlog.get_logger("trainer")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An entry of `log` that was not applied. `position` is just behind it; `payload` holds ids and no text
    of people."""

    log: str
    partition: int
    position: str
    reason: str
    payload: str
    created_at: datetime


def write(connection: Connection[Any], log: str, entry: Entry, found: Unreadable) -> None:
    """Writes a dead letter, in the transaction that moves on behind it."""
    logger.error("dead letter", log=log, partition=entry.partition, reason=found.reason)
    connection.execute(
        "insert into dead_letters (log, partition, position, reason, payload) values (%s, %s, %s, %s, %s)"
        " on conflict do nothing",
        [log, entry.partition, entry.position, found.reason, found.payload],
    )


def dead_letters(pool: Pool) -> list[DeadLetter]:
    """Returns the oldest AT_ONCE dead letters, oldest first."""
    with pool.connection() as connection, connection.cursor(row_factory=class_row(DeadLetter)) as cursor:
        return cursor.execute(_OLDEST, [AT_ONCE]).fetchall()


def count(pool: Pool) -> int:
    """Returns the number of dead letters."""
    with pool.connection() as connection:
        row = connection.execute("select count(*) as letters from dead_letters").fetchone()
    return int(row["letters"]) if row else 0


def retry(pool: Pool) -> int:
    """Applies each dead letter again, AT_ONCE of them at a time; returns how many succeeded. The others get
    their current reason."""
    succeeded, after = 0, ("", -1, "")
    while letters := _behind(pool, after):
        succeeded += _retry(pool, letters)
        after = letters[-1].log, letters[-1].partition, letters[-1].position
    return succeeded


def _behind(pool: Pool, after: tuple[str, int, str]) -> list[DeadLetter]:
    """Returns the next dead letters by their place."""
    with pool.connection() as connection, connection.cursor(row_factory=class_row(DeadLetter)) as cursor:
        return cursor.execute(_NEXT, [*after, AT_ONCE]).fetchall()


def _retry(pool: Pool, letters: Sequence[DeadLetter]) -> int:
    succeeded = 0
    for letter in letters:
        with pool.connection() as connection:
            reason = _apply(connection, letter)
            key = [letter.log, letter.partition, letter.position]
            if reason is None:
                connection.execute(
                    "delete from dead_letters where log = %s and partition = %s and position = %s", key
                )
                succeeded += 1
            else:
                connection.execute(
                    "update dead_letters set reason = %s where log = %s and partition = %s and position = %s",
                    [reason, *key],
                )
    return succeeded


def _apply(connection: Connection[DictRow], letter: DeadLetter) -> str | None:
    """Applies a dead letter; returns the reason if that is impossible."""
    match read_event(letter.payload):
        case NewerVersion(version):
            return f"{version} is a version of a newer Hearken"
        case Unreadable(reason):
            return reason
        case event:
            try:
                with connection.transaction():
                    apply_event(connection, event)
            except (DataError, IntegrityError) as error:
                return refusal(error)
    return None
