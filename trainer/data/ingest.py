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

from feedback.log import Entry, Log, NewerVersion, Unreadable
from schemas.database import Pool
from schemas.feedback import FeedbackEvent
from trainer.data import dead_letters
from trainer.data.apply_event import apply_event, refusal

CONSUMER = "trainer"
BATCH = 500

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
                        dead_letters.write(connection, log, entry, entry.event)
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
