"""From the log to the table of examples, with the effect of reading everything exactly once.

The position in the log is stored in the transaction of the rows derived from it, and a row is unique by its
event, so a trainer that dies anywhere, or a log that delivers again, changes nothing. What is no event, or
one that the database refuses, is set aside with the reason, and reading goes on behind it (`dead_letters`).
Before an event of a version that is not known yet, reading waits for a trainer that knows it.
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import structlog
from psycopg import Connection, DataError, IntegrityError
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from feedback.log import Entry, Log, Newer, Unreadable
from schemas.database import Pool
from schemas.feedback import FeedbackEvent

CONSUMER = "trainer"
BATCH = 500

# Whether a vote still stands is what its own row says: the event that ended it may have been read before.
_INSERT = """
insert into training_examples (event_id, project, feedback_id, turn_id, choice, type, value, rater,
    conversation_id, created_at, superseded_by)
values (%(event_id)s, %(project)s, %(feedback_id)s, %(turn_id)s, %(choice)s, %(type)s, %(value)s, %(rater)s,
    %(conversation_id)s, %(created_at)s,
    (select coalesce(newer.event_id, 'retracted') from feedback f
        left join feedback newer on newer.id = f.superseded_by
        where f.id = %(feedback_id)s and (f.superseded_by is not null or f.retracted_at is not null)))
on conflict do nothing
"""

logger = structlog.get_logger("trainer")


def ingest(pool: Pool, log: Log) -> int:
    """Read all that the log has; returns how many events were read."""
    return sum(_ingest_partition(pool, log, partition) for partition in log.partitions())


def positions(pool: Pool) -> dict[str, str]:
    """How far each log was read: `{"postgres:0": "1234:56"}`."""
    with pool.connection() as connection:
        rows = connection.execute(
            "select log, partition, position from consumer_offsets where consumer = %s", [CONSUMER]
        ).fetchall()
    return {f"{row['log']}:{row['partition']}": row["position"] for row in rows}


def _ingest_partition(pool: Pool, log: Log, partition: int) -> int:
    read = 0
    while True:
        with pool.connection() as connection:
            row = connection.execute(
                "select position from consumer_offsets where consumer = %s and log = %s and partition = %s",
                [CONSUMER, log.name, partition],
            ).fetchone()
        entries = log.read(partition, row["position"] if row else None, BATCH)
        known = list(takewhile(lambda entry: not isinstance(entry.event, Newer), entries))
        if known:
            _take(pool, log.name, known)
            read += len(known)
        if len(known) < len(entries):
            _wait(pool, log.name, entries[len(known)])
        if not known or len(known) < len(entries):
            return read


def _take(pool: Pool, log: str, entries: Sequence[Entry]) -> None:
    """Do what the entries say and move on behind them, all or nothing. Where the database refuses one, each
    is taken by itself."""
    try:
        with pool.connection() as connection, connection.transaction():
            for entry in entries:
                match entry.event:
                    case FeedbackEvent():
                        apply(connection, entry.event)
                    case Unreadable():
                        _set_aside(connection, log, entry, entry.event)
            _advance(connection, log, entries[-1])
    except (DataError, IntegrityError) as error:
        if len(entries) > 1:
            for entry in entries:
                _take(pool, log, [entry])
        elif isinstance(entries[0].event, FeedbackEvent):
            refused = Unreadable(reason(error), entries[0].event.model_dump_json())
            _take(pool, log, [entries[0]._replace(event=refused)])
        else:
            raise


def reason(error: DataError | IntegrityError) -> str:
    """Why the database refused an event."""
    return error.diag.message_primary or str(error)


def apply(connection: Connection[DictRow], event: FeedbackEvent) -> None:
    """What one event does to the examples; applying it again does nothing, and the order in which events are
    applied makes no difference. Raises psycopg.DataError and psycopg.IntegrityError for one that the database
    refuses."""
    if event.kind == "retracted":
        _end(connection, event.feedback_id, event.event_id)
        return
    if event.supersedes is not None:
        _end(connection, event.supersedes, event.event_id)
    connection.execute(_INSERT, {**event.model_dump(), "value": Jsonb(event.value)})


def _end(connection: Connection[DictRow], feedback_id: str, by: str) -> None:
    connection.execute(
        "update training_examples set superseded_by = %s where feedback_id = %s and superseded_by is null",
        [by, feedback_id],
    )


def _set_aside(connection: Connection[Any], name: str, entry: Entry, found: Unreadable) -> None:
    logger.error("unreadable event", log=name, partition=entry.partition, reason=found.reason)
    connection.execute(
        "insert into dead_letters (log, partition, position, reason, payload) values (%s, %s, %s, %s, %s)"
        " on conflict do nothing",
        [name, entry.partition, entry.position, found.reason, found.payload],
    )


def _wait(pool: Pool, log: str, entry: Entry) -> None:
    assert isinstance(entry.event, Newer)  # noqa: S101  (what else ended the entries that are known)
    with pool.connection() as connection:
        begun = connection.execute(
            "insert into blocked_partitions (log, partition, version) values (%s, %s, %s)"
            " on conflict do nothing",
            [log, entry.partition, entry.event.version],
        ).rowcount
    if begun:
        logger.error(
            "waits for a newer trainer", log=log, partition=entry.partition, version=entry.event.version
        )


def _advance(connection: Connection[Any], log: str, entry: Entry) -> None:
    connection.execute(
        "delete from blocked_partitions where log = %s and partition = %s", [log, entry.partition]
    )
    connection.execute(
        "insert into consumer_offsets (consumer, log, partition, position) values (%s, %s, %s, %s)"
        " on conflict (consumer, log, partition)"
        " do update set position = excluded.position, updated_at = now()",
        [CONSUMER, log, entry.partition, entry.position],
    )
