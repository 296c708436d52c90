"""From the log to the table of examples, with the effect of reading everything exactly once.

The position in the log is stored in the transaction of the rows derived from it, and a row is unique by its
event, so a trainer that dies anywhere, or a log that delivers again, changes nothing. What is no event is set
aside with the reason, and reading goes on behind it.
"""

from typing import Any

import structlog
from psycopg import Connection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from feedback.log import Entry, Log, Unreadable
from schemas.database import Pool
from schemas.feedback import FeedbackEvent

CONSUMER = "trainer"
BATCH = 500

logger = structlog.get_logger("trainer")


def ingest(pool: Pool, log: Log) -> int:
    """Read all that the log has; returns how many events were read."""
    return sum(_ingest_partition(pool, log, partition) for partition in log.partitions())


def positions(pool: Pool) -> dict[str, str]:
    """How far each log was read: `{"postgres:0": "1234:56"}`."""
    with pool.connection() as connection:
        rows = connection.execute(
            "select log, partition, position from positions where consumer = %s", [CONSUMER]
        ).fetchall()
    return {f"{row['log']}:{row['partition']}": row["position"] for row in rows}


def _ingest_partition(pool: Pool, log: Log, partition: int) -> int:
    read = 0
    while True:
        with pool.connection() as connection:
            row = connection.execute(
                "select position from positions where consumer = %s and log = %s and partition = %s",
                [CONSUMER, log.name, partition],
            ).fetchone()
        entries = log.read(partition, row["position"] if row else None, BATCH)
        if not entries:
            return read
        with pool.connection() as connection, connection.transaction():
            for entry in entries:
                if isinstance(entry.event, Unreadable):
                    _set_aside(connection, log.name, entry, entry.event)
                else:
                    apply(connection, entry.event)
            _advance(connection, log.name, entries[-1])
        read += len(entries)


def apply(connection: Connection[DictRow], event: FeedbackEvent) -> None:
    """What one event does to the examples; applying it again does nothing."""
    if event.kind == "retracted":
        _end(connection, event.feedback_id, event.event_id)
        return
    if event.supersedes is not None:
        _end(connection, event.supersedes, event.event_id)
    connection.execute(
        "insert into examples (event_id, project, feedback_id, turn_id, choice, type, value, rater,"
        " conversation_id, created_at) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
        " on conflict do nothing",
        [
            event.event_id, event.project, event.feedback_id, event.turn_id, event.choice, event.type,
            Jsonb(event.value), event.rater, event.conversation_id, event.created_at,
        ],
    )  # fmt: skip


def _end(connection: Connection[DictRow], feedback_id: str, by: str) -> None:
    connection.execute(
        "update examples set ended_by = %s where feedback_id = %s and ended_by is null", [by, feedback_id]
    )


def _set_aside(connection: Connection[Any], name: str, entry: Entry, found: Unreadable) -> None:
    logger.error("unreadable event", log=name, partition=entry.partition, reason=found.reason)
    connection.execute(
        "insert into dead_letters (log, partition, position, reason, payload) values (%s, %s, %s, %s, %s)"
        " on conflict do nothing",
        [name, entry.partition, entry.position, found.reason, found.payload],
    )


def _advance(connection: Connection[Any], log: str, entry: Entry) -> None:
    connection.execute(
        "insert into positions (consumer, log, partition, position) values (%s, %s, %s, %s)"
        " on conflict (consumer, log, partition)"
        " do update set position = excluded.position, updated_at = now()",
        [CONSUMER, log, entry.partition, entry.position],
    )
