"""These helpers of the log's tests write events to the outbox and read logs."""

import time
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.types.json import Jsonb

from feedback.log import Entry, Log
from schemas.database import Pool
from schemas.feedback import FeedbackEvent
from trainer.data.ingest import ingest


def event(name: str, turn: str = "chatcmpl-1") -> FeedbackEvent:
    """An event that names who voted, as version 1 did, so that it needs no row of a vote."""
    return FeedbackEvent(
        event_id=f"ev_{name}",
        kind="recorded",
        feedback_id=f"fb_{name}",
        project="default",
        turn_id=turn,
        choice=0,
        type="thumb",
        value={"value": "up", "reasons": ["concise"]},
        rater="u_ada",
        created_at=datetime(2026, 3, 1, 12, 30, tzinfo=UTC),
    )


def put(connection: Connection, event: FeedbackEvent) -> None:
    """Insert the outbox row of a vote, as the store does."""
    connection.execute(
        "insert into outbox (project, event_id, conversation_id, event) values (%s, %s, %s, %s)",
        [event.project, event.event_id, event.turn_id, Jsonb(event.model_dump(mode="json"))],
    )


def put_json(url: str, name: str, event: Any) -> None:
    """Insert a payload that no store of this version writes, in a transaction of its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "insert into outbox (project, event_id, conversation_id, event)"
            " values ('default', %s, 'conv-1', %s)",
            [f"ev_{name}", Jsonb(event)],
        )


def put_each(url: str, *names: str) -> None:
    """Insert events, each in a transaction of its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        for name in names:
            put(connection, event(name))


def read_until(log: Log, after: str | None, count: int, seconds: float = 30) -> list[Entry]:
    """Returns the next `count` entries of partition 0 after `after`; a read may be empty while they are in
    flight."""
    deadline = time.monotonic() + seconds
    entries: list[Entry] = []
    while len(entries) < count and time.monotonic() < deadline:
        entries += log.read(0, entries[-1].position if entries else after, count - len(entries))
    return entries


def learned(pool: Pool) -> list[str]:
    """Returns the event ids of the trainer's examples, in order."""
    with pool.connection() as connection:
        rows = connection.execute("select event_id from training_examples order by event_id").fetchall()
    return [row["event_id"] for row in rows]


def ingest_until(pool: Pool, log: Log, count: int, seconds: float = 40) -> list[str]:
    """Ingest until there are `count` examples; returns their event ids."""
    deadline = time.monotonic() + seconds
    while len(learned(pool)) < count and time.monotonic() < deadline:
        ingest(pool, log)
        time.sleep(0.05)
    return learned(pool)


class Reader:
    """A consumer that polls all partitions and keeps its positions."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.positions: dict[int, str] = {}
        self.seen: list[str] = []

    def poll(self, limit: int = 100) -> list[str]:
        new: list[Entry] = []
        for partition in self.log.partitions():
            entries = self.log.read(partition, self.positions.get(partition), limit)
            if entries:
                self.positions[partition] = entries[-1].position
            new += entries
        self.seen += [entry.event.event_id for entry in new]
        return [entry.event.event_id for entry in new]

    def poll_until(self, count: int, seconds: float = 30) -> list[str]:
        """Poll until `count` events were seen; other transactions may delay the log briefly."""
        deadline = time.monotonic() + seconds
        while len(self.seen) < count and time.monotonic() < deadline:
            if not self.poll():
                time.sleep(0.01)
        return self.seen
