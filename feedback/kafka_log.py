"""A Kafka topic is the log for more votes, trainers and readers than one database should carry. The relay
(`feedback.relay`) fills it.

Partitions are assigned explicitly and offsets stay in Postgres, beside the data derived from the events: a
consumer group would store them elsewhere, and takes tens of seconds to join. A position is
"generation:offset", the offset of the next message. A position of an older generation reads as the start of
the topic, since its messages are gone; applying an event twice has no effect.
"""

from collections import defaultdict, deque
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from feedback.broker import BrokerNotice, connection
from feedback.log import Entry, read_event
from feedback.trim import trim_in_batches
from schemas.database import Pool
from schemas.settings import KafkaSettings

POLL_MESSAGES = 1_000
"""Messages of one poll."""
WAIT_MS = 50
"""Longest wait of a poll, milliseconds."""

_TRIM = """
with consumers as (
    select consumer, partition,
        case when split_part(position, ':', 1)::integer = %(generation)s
            then split_part(position, ':', 2)::bigint else 0 end as "offset"
    from consumer_offsets where log = 'kafka'
), slowest as (
    select partition, min("offset") as "offset" from consumers
    where partition in (select partition from consumers where consumer = 'trainer')
    group by partition
)
delete from outbox where id in (
    select outbox.id from outbox join slowest using (partition) where outbox."offset" < slowest."offset"
    limit %(most)s
)
"""


class KafkaLog:
    """A consumer of the topic of `kafka`. While the broker is unavailable, reads return nothing. The caller
    owns the pool."""

    name = "kafka"

    def __init__(self, kafka: KafkaSettings, pool: Pool) -> None:
        self._kafka = kafka
        self._pool = pool
        self._notice = BrokerNotice(kafka)
        self._consumer: KafkaConsumer | None = None
        self._partitions: list[int] = []
        self._next: dict[int, int] = {}
        self._fetched: defaultdict[int, deque[Any]] = defaultdict(deque)

    def partitions(self) -> list[int]:
        """Returns the partitions that the topic has now; it may gain some later."""
        try:
            found = sorted(self._connected().partitions_for_topic(self._kafka.topic) or ())
        except KafkaError as error:
            self._notice.away(error)
            return self._partitions
        if found != self._partitions:
            self._connected().assign([TopicPartition(self._kafka.topic, number) for number in found])
            self._partitions = found
            self._next.clear()
        return found

    def read(self, partition: int, after: str | None, limit: int) -> list[Entry]:
        generation = self._generation()
        if generation is None or partition not in (self._partitions or self.partitions()):
            return []
        written_in, _, next_offset = (after or "0:0").partition(":")
        offset = int(next_offset) if int(written_in) == generation else 0
        fetched = self._fetched[partition]
        try:
            if self._next.get(partition) != offset:
                self._connected().seek(TopicPartition(self._kafka.topic, partition), offset)
                fetched.clear()
            if not fetched:
                self._fetch()
        except KafkaError as error:
            self._notice.away(error)
            return []
        messages = [fetched.popleft() for _ in range(min(limit, len(fetched)))]
        self._next[partition] = messages[-1].offset + 1 if messages else offset
        return [
            Entry(partition, f"{generation}:{message.offset + 1}", read_event(message.value or b""))
            for message in messages
        ]

    def trim(self) -> int:
        return trim_in_batches(self._pool, _TRIM, {"generation": self._generation()})

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close(autocommit=False)

    def _connected(self) -> KafkaConsumer:
        """Raises KafkaError while no broker was reached yet."""
        if self._consumer is None:
            self._consumer = KafkaConsumer(
                **connection(self._kafka), group_id=None, enable_auto_commit=False,
                auto_offset_reset="earliest", max_poll_records=POLL_MESSAGES, metadata_max_age_ms=10_000,
            )  # fmt: skip
        return self._consumer

    def _fetch(self) -> None:
        for source, messages in self._connected().poll(timeout_ms=WAIT_MS, max_records=POLL_MESSAGES).items():
            self._fetched[source.partition] += messages

    def _generation(self) -> int | None:
        """Returns the newest generation; None while no relay has published anything."""
        with self._pool.connection() as connection:
            row = connection.execute(
                "select max(generation) as newest from generations where topic = %s", [self._kafka.topic]
            ).fetchone()
        return row["newest"] if row else None
