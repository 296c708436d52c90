"""The message relay publishes the outbox to Kafka (the transactional outbox pattern): at least once, and the
events of each turn in order.

It reads a batch in the outbox's order (see `postgres_log`), sends it with an idempotent producer and
acks=all, and stores the offsets of its events while the next batch is in flight. A relay that dies in between
sends both batches again, and consumers ignore the duplicates. Rows stay until every consumer has passed them,
so a broker that lost its data is given them again. Data loss shows as another topic id, an offset that is
assigned twice, a topic that ends before an acknowledged event, or one that begins after an event that a
consumer still needs. Then a new generation of offsets begins, and every row counts as unpublished.

One relay is active at a time, by an advisory lock; others stand by. The active relay uses only the connection
that holds the lock: without the lock it can write nothing.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import psycopg
import structlog
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError
from psycopg import Connection
from psycopg.rows import DictRow, args_row

from feedback.broker import BrokerNotice, ensure_topic
from feedback.broker import connection as broker_connection
from schemas import lock_ids
from schemas.database import connect
from schemas.errors import HearkenError
from schemas.settings import KafkaSettings

BATCH = 2_000
BATCH_BYTES = 512 * 1024
"""Bytes of one request to a partition. One request is in flight at a time, which keeps the order."""
POLL = 0.1
"""Seconds between reads of an empty outbox."""
VERIFY = 5.0
"""Seconds between checks that the broker still has the events that it acknowledged."""
READ_TIMEOUT = 5.0
"""Seconds for a reachable broker to return an event; after that, the event counts as lost."""
ACK_TIMEOUT = 10.0
"""Seconds for a batch to be acknowledged. A broker that lost its data may not know a producer, which then
retries without end; a new producer is needed."""
PAUSE = 1.0
"""Seconds before the next attempt when Postgres or the broker is unavailable."""

_UNPUBLISHED = """
select id, xid::text as transaction, convert_to(conversation_id, 'UTF8'), convert_to(event::text, 'UTF8')
from outbox
where "offset" is null and xid < pg_snapshot_xmin(pg_current_snapshot())
    and (xid, id) > (%s::xid8, %s::bigint)
order by xid, id
limit %s
"""

_PUBLISHED = """
update outbox set partition = acked.partition, "offset" = acked."offset"
from unnest(%s::bigint[], %s::integer[], %s::bigint[]) as acked (id, partition, "offset")
where outbox.id = acked.id
"""

# The highest offset that a consumer has passed in each partition.
_PASSED = """
select partition, max(split_part(position, ':', 2)::bigint - 1) as "offset" from consumer_offsets
where log = 'kafka' and split_part(position, ':', 1)::integer = %s
group by partition
"""

# The newest kept event of each partition, and the offset of the oldest; the others lie between them.
_KEPT = """
select kept.partition, kept."offset", kept.oldest, convert_to(outbox.event::text, 'UTF8') as event
from published_outbox as kept join outbox using (partition, "offset")
"""

log = structlog.get_logger("relay")


class Row(NamedTuple):
    """An event to publish: `key` is the message key (the turn; of older rows the conversation), `event` its
    value, both as Postgres sent them."""

    id: int
    transaction: str
    key: bytes
    event: bytes


class DataLost(HearkenError):
    """The broker no longer has an event that it acknowledged. The relay starts a new generation; the message
    is stored as its reason."""


class Relay:
    """The active relay. `connection` holds the lock."""

    def __init__(self, kafka: KafkaSettings, connection: Connection[DictRow]) -> None:
        """Raises KafkaError when the broker is unavailable."""
        self._kafka = kafka
        self._connection = connection
        self._highest: dict[int, int] = {}
        self._in_flight: list[tuple[Row, Any]] = []
        self._verified = 0.0
        arguments = broker_connection(kafka)
        with ExitStack() as clients:
            self._admin = KafkaAdminClient(**arguments)
            clients.callback(self._admin.close)
            self._topic_id = ensure_topic(self._admin, kafka)
            self._producer = KafkaProducer(
                **arguments, acks="all", enable_idempotence=True, linger_ms=5, batch_size=BATCH_BYTES,
                max_in_flight_requests_per_connection=1,
            )  # fmt: skip
            clients.callback(self._producer.close, timeout=1)
            self._watcher = KafkaConsumer(
                **arguments, group_id=None, enable_auto_commit=False, auto_offset_reset="none"
            )
            clients.callback(self._watcher.close, autocommit=False)
            self.close = clients.pop_all().close

    def step(self) -> bool:
        """Send one batch, if there is one, and store the offsets of the batch before it. Returns whether
        there was anything to do. Raises KafkaError (no offsets are stored: both batches are sent again) and
        psycopg.OperationalError."""
        try:
            if time.monotonic() - self._verified > VERIFY:
                self._verify()
            before = self._in_flight
            rows = self._unpublished(before[-1][0] if before else None)
            self._in_flight = [
                (row, self._producer.send(self._kafka.topic, key=row.key, value=row.event)) for row in rows
            ]
            self._mark(before)
            return bool(rows or before)
        except DataLost as loss:
            self._begin_generation(str(loss))
            return True

    def _mark(self, sent: Sequence[tuple[Row, Any]]) -> None:
        """Store the offsets that the broker assigned. Raises DataLost."""
        acked = [future.get(timeout=ACK_TIMEOUT) for _, future in sent]
        for ack in acked:
            if ack.offset <= self._highest.get(ack.partition, -1):
                raise DataLost(f"partition {ack.partition} gave offset {ack.offset} a second time")
            self._highest[ack.partition] = ack.offset
        if sent:
            self._connection.execute(
                _PUBLISHED,
                [
                    [row.id for row, _ in sent],
                    [ack.partition for ack in acked],
                    [ack.offset for ack in acked],
                ],
            )

    def _unpublished(self, after: Row | None = None) -> list[Row]:
        start = [after.transaction, after.id] if after else ["0", 0]
        with self._connection.cursor(binary=True, row_factory=args_row(Row)) as cursor:
            return cursor.execute(_UNPUBLISHED, [*start, BATCH]).fetchall()

    def _verify(self) -> None:
        """Raises DataLost."""
        newest = self._connection.execute(
            "select generation, topic_id from generations where topic = %s order by generation desc limit 1",
            [self._kafka.topic],
        ).fetchone()
        self._topic_id = ensure_topic(self._admin, self._kafka)
        if newest is None:
            raise DataLost("the topic is new")
        if self._topic_id != newest["topic_id"]:
            raise DataLost("the topic has another id")
        passed = self._connection.execute(_PASSED, [newest["generation"]]).fetchall()
        kept = self._connection.execute(_KEPT).fetchall()
        for row in (*passed, *kept):
            self._highest[row["partition"]] = max(row["offset"], self._highest.get(row["partition"], -1))
        partitions = [TopicPartition(self._kafka.topic, row["partition"]) for row in kept]
        begins = self._watcher.beginning_offsets(partitions) if kept else {}
        for row, partition in zip(kept, partitions, strict=True):
            if begins[partition] > row["oldest"]:
                raise DataLost(f"{partition} begins at {begins[partition]}, {row['oldest']} was not passed")
            if self._read(partition, row["offset"]) != row["event"]:
                raise DataLost(f"{partition} has another message at offset {row['offset']}, or none")
        self._verified = time.monotonic()

    def _read(self, partition: TopicPartition, offset: int) -> bytes | None:
        """Returns the broker's message at an offset, if any. It reads instead of asking for the end offset,
        which may differ from what a consumer can read."""
        self._watcher.assign([partition])
        self._watcher.seek(partition, offset)
        deadline = time.monotonic() + READ_TIMEOUT
        try:
            while time.monotonic() < deadline:
                for message in self._watcher.poll(timeout_ms=200, max_records=1).get(partition, []):
                    return bytes(message.value or b"") if message.offset == offset else None
        except OffsetOutOfRangeError:
            pass
        return None

    def _begin_generation(self, reason: str) -> None:
        with self._connection.transaction():
            self._connection.execute(
                'update outbox set partition = null, "offset" = null where "offset" is not null'
            )
            self._connection.execute(
                "insert into generations (topic, generation, topic_id, reason)"
                " select %(topic)s, coalesce(max(generation), 0) + 1, %(topic_id)s, %(reason)s"
                " from generations where topic = %(topic)s",
                {"topic": self._kafka.topic, "topic_id": self._topic_id, "reason": reason},
            )
        self._highest.clear()
        self._in_flight = []
        log.warning("a new generation of the log", topic=self._kafka.topic, reason=reason)


def run(url: str, kafka: KafkaSettings, stopping: threading.Event) -> None:
    """Relay until `stopping` is set; retries while Postgres or the broker is unavailable."""
    notice = BrokerNotice(kafka)
    while not stopping.is_set():
        try:
            with _active(url, kafka, stopping) as relay:
                while relay is not None and not stopping.is_set():
                    if not relay.step():
                        stopping.wait(POLL)
        except psycopg.OperationalError as error:
            log.warning("database is away", error=type(error).__name__)
        except KafkaError as error:
            notice.away(error)
        stopping.wait(PAUSE)


@contextmanager
def _active(url: str, kafka: KafkaSettings, stopping: threading.Event) -> Iterator[Relay | None]:
    """Yields the relay once this process holds the lock, or None when it must stop first."""
    with connect(url) as connection:
        while not _locked(connection):
            if stopping.wait(PAUSE):
                yield None
                return
        log.info("relay active", topic=kafka.topic)
        relay = Relay(kafka, connection)
        try:
            yield relay
        finally:
            relay.close()


def _locked(connection: Connection[DictRow]) -> bool:
    row = connection.execute("select pg_try_advisory_lock(%s) as locked", [lock_ids.RELAY]).fetchone()
    return row is not None and bool(row["locked"])
