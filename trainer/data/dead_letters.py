"""What was set aside from the log: to be looked at, and applied again once this code can read it, or the
database takes it."""

from dataclasses import dataclass
from datetime import datetime

from psycopg import Connection, DataError, IntegrityError
from psycopg.rows import DictRow, class_row

from feedback.log import Newer, Unreadable, read_event
from schemas.database import Pool
from trainer.data.ingest import apply, reason

_ALL = (
    "select log, partition, position, reason, payload, created_at from dead_letters order by created_at, log"
)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """`position` is just behind it in `log`; `payload` is what was there, ids and no text of people."""

    log: str
    partition: int
    position: str
    reason: str
    payload: str
    created_at: datetime


def dead_letters(pool: Pool) -> list[DeadLetter]:
    """All there are, the oldest first."""
    with pool.connection() as connection, connection.cursor(row_factory=class_row(DeadLetter)) as cursor:
        return cursor.execute(_ALL).fetchall()


def retry(pool: Pool) -> int:
    """Apply each again; returns how many are dead letters no more. The others keep why, as it is now."""
    given_back = 0
    for letter in dead_letters(pool):
        with pool.connection() as connection:
            refusal = _apply(connection, letter)
            place = [letter.log, letter.partition, letter.position]
            if refusal is None:
                connection.execute(
                    "delete from dead_letters where log = %s and partition = %s and position = %s", place
                )
                given_back += 1
            else:
                connection.execute(
                    "update dead_letters set reason = %s where log = %s and partition = %s and position = %s",
                    [refusal, *place],
                )
    return given_back


def _apply(connection: Connection[DictRow], letter: DeadLetter) -> str | None:
    """Why it cannot be applied."""
    match read_event(letter.payload):
        case Newer(version):
            return f"{version} is of a newer Hearken"
        case Unreadable(refusal):
            return refusal
        case event:
            try:
                with connection.transaction():
                    apply(connection, event)
            except (DataError, IntegrityError) as error:
                return reason(error)
    return None
