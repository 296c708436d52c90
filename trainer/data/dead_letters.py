"""This module writes, lists and retries dead letters of the log.

An event becomes a dead letter if this code cannot read it or the database refuses it (`ingest`)."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from psycopg import Connection, DataError, IntegrityError
from psycopg.rows import DictRow, class_row

from feedback.log import Entry, NewerVersion, Unreadable, read_event
from schemas.database import Pool
from trainer.data.apply_event import apply_event, refusal

_ALL = (
    "select log, partition, position, reason, payload, created_at from dead_letters order by created_at, log"
)


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
    """Returns all dead letters, oldest first."""
    with pool.connection() as connection, connection.cursor(row_factory=class_row(DeadLetter)) as cursor:
        return cursor.execute(_ALL).fetchall()


def retry(pool: Pool) -> int:
    """Applies each dead letter again; returns how many succeeded. The others get their current reason."""
    succeeded = 0
    for letter in dead_letters(pool):
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
