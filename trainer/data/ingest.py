"""This module is an exactly-once consumer of the event log: it derives training examples from events.

The offset in the log is committed in the transaction of the rows derived from it, and each row is unique by
its event, so neither a crash nor a repeated delivery changes the result. An unreadable event, or one that the
database refuses, becomes a dead letter with the reason, and reading continues behind it (`dead_letters`). At
an event of a newer version the partition is blocked until a trainer of that version reads it."""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import structlog
from psycopg import Connection, DataError, IntegrityError
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from feedback.log import Entry, Log, NewerVersion, Unreadable
from schemas.database import Pool
from schemas.feedback import FeedbackEvent

CONSUMER = "trainer"
BATCH = 500

# A superseding event may be read before the vote, so the vote's own row tells whether it is still active.
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
    """Reads the log to its end; returns how many events were read."""
    return sum(_ingest_partition(pool, log, partition) for partition in log.partitions())


def consumer_offsets(pool: Pool) -> dict[str, str]:
    """Returns the position in each partition of each log: `{"postgres:0": "1234:56"}`."""
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
        readable = list(takewhile(lambda entry: not isinstance(entry.event, NewerVersion), entries))
        if readable:
            _apply_batch(pool, log.name, readable)
            read += len(readable)
        if len(readable) < len(entries):
            _block_partition(pool, log.name, entries[len(readable)])
        if not readable or len(readable) < len(entries):
            return read


def _apply_batch(pool: Pool, log: str, entries: Sequence[Entry]) -> None:
    """Applies the entries and commits the offset behind them in one transaction. If the database refuses one,
    each entry gets a transaction of its own."""
    try:
        with pool.connection() as connection, connection.transaction():
            for entry in entries:
                match entry.event:
                    case FeedbackEvent():
                        apply_event(connection, entry.event)
                    case Unreadable():
                        _dead_letter(connection, log, entry, entry.event)
            _commit_offset(connection, log, entries[-1])
    except (DataError, IntegrityError) as error:
        if len(entries) > 1:
            for entry in entries:
                _apply_batch(pool, log, [entry])
        elif isinstance(entries[0].event, FeedbackEvent):
            refused = Unreadable(refusal(error), entries[0].event.model_dump_json())
            _apply_batch(pool, log, [entries[0]._replace(event=refused)])
        else:
            raise


def refusal(error: DataError | IntegrityError) -> str:
    """Returns the reason for which the database refused an event."""
    return error.diag.message_primary or str(error)


def apply_event(connection: Connection[DictRow], event: FeedbackEvent) -> None:
    """Applies one event to the training examples: idempotent, and independent of the order of events. Raises
    psycopg.DataError or psycopg.IntegrityError if the database refuses it."""
    if event.kind == "retracted":
        _supersede(connection, event.feedback_id, event.event_id)
        return
    if event.supersedes is not None:
        _supersede(connection, event.supersedes, event.event_id)
    connection.execute(_INSERT, {**event.model_dump(), "value": Jsonb(event.value)})


def _supersede(connection: Connection[DictRow], feedback_id: str, by: str) -> None:
    connection.execute(
        "update training_examples set superseded_by = %s where feedback_id = %s and superseded_by is null",
        [by, feedback_id],
    )


def _dead_letter(connection: Connection[Any], name: str, entry: Entry, found: Unreadable) -> None:
    logger.error("dead letter", log=name, partition=entry.partition, reason=found.reason)
    connection.execute(
        "insert into dead_letters (log, partition, position, reason, payload) values (%s, %s, %s, %s, %s)"
        " on conflict do nothing",
        [name, entry.partition, entry.position, found.reason, found.payload],
    )


def _block_partition(pool: Pool, log: str, entry: Entry) -> None:
    assert isinstance(entry.event, NewerVersion)  # noqa: S101  (nothing else ends the readable entries)
    with pool.connection() as connection:
        blocked = connection.execute(
            "insert into blocked_partitions (log, partition, version) values (%s, %s, %s)"
            " on conflict do nothing",
            [log, entry.partition, entry.event.version],
        ).rowcount
    if blocked:
        logger.error(
            "partition blocked by a newer version",
            log=log,
            partition=entry.partition,
            version=entry.event.version,
        )


def _commit_offset(connection: Connection[Any], log: str, entry: Entry) -> None:
    connection.execute(
        "delete from blocked_partitions where log = %s and partition = %s", [log, entry.partition]
    )
    connection.execute(
        "insert into consumer_offsets (consumer, log, partition, position) values (%s, %s, %s, %s)"
        " on conflict (consumer, log, partition)"
        " do update set position = excluded.position, updated_at = now()",
        [CONSUMER, log, entry.partition, entry.position],
    )
