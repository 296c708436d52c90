"""This module lists the dead letters of the log and retries them.

An event becomes a dead letter if this code cannot read it or the database refuses it (`ingest`)."""

from dataclasses import dataclass
from datetime import datetime

from psycopg import Connection, DataError, IntegrityError
from psycopg.rows import DictRow, class_row

from feedback.log import NewerVersion, Unreadable, read_event
from schemas.database import Pool
from trainer.data.ingest import apply_event, refusal

_ALL = (
    "select log, partition, position, reason, payload, created_at from dead_letters order by created_at, log"
)


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
