"""The log on a Kafka broker, as the relay fills it (`relay`): for more votes, trainers and readers than one
database should carry.

Partitions are taken explicitly and positions stay in Postgres, beside what was derived: a consumer group
would keep them apart, and takes tens of seconds to join. A position is "generation:offset", the offset being
the next to read; one of an older generation means the topic's beginning, since what it pointed at is gone
(what is then read twice has no effect twice).
"""

from collections import defaultdict, deque
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from feedback.broker import connection
from feedback.log import Entry, read_event
from schemas.database import Pool
from schemas.settings import KafkaSettings

FETCHED = 1_000
"""Messages taken from the client at once."""
WAIT_MS = 50
"""For a fetch on its way."""

_TRIM = """
with consumers as (
    select consumer, partition,
        case when split_part(position, ':', 1)::integer = %(generation)s
            then split_part(position, ':', 2)::bigint else 0 end as place
    from consumer_offsets where log = 'kafka'
), slowest as (
    select partition, min(place) as place from consumers
    where partition in (select partition from consumers where consumer = 'trainer')
    group by partition
)
delete from outbox using slowest
where outbox.partition = slowest.partition and outbox."offset" < slowest.place
"""


class KafkaLog:
    """Reads the topic of `kafka`. While the broker is away there is nothing to read. The pool stays its
    owner's."""

    name = "kafka"

    def __init__(self, kafka: KafkaSettings, pool: Pool) -> None:
        self._kafka = kafka
        self._pool = pool
        self._consumer: KafkaConsumer | None = None
        self._partitions: list[int] = []
        self._next: dict[int, int] = {}
        self._fetched: defaultdict[int, deque[Any]] = defaultdict(deque)

    def partitions(self) -> list[int]:
        """As the broker has them now: they may become more."""
        try:
            found = sorted(self._connected().partitions_for_topic(self._kafka.topic) or ())
        except KafkaError:
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
        written_in, _, place = (after or "0:0").partition(":")
        offset = int(place) if int(written_in) == generation else 0
        fetched = self._fetched[partition]
        try:
            if self._next.get(partition) != offset:
                self._connected().seek(TopicPartition(self._kafka.topic, partition), offset)
                fetched.clear()
            if not fetched:
                self._fetch()
        except KafkaError:
            return []
        messages = [fetched.popleft() for _ in range(min(limit, len(fetched)))]
        self._next[partition] = messages[-1].offset + 1 if messages else offset
        return [
            Entry(partition, f"{generation}:{message.offset + 1}", read_event(message.value or b""))
            for message in messages
        ]

    def trim(self) -> int:
        with self._pool.connection() as connection:
            return connection.execute(_TRIM, {"generation": self._generation()}).rowcount

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close(autocommit=False)

    def _connected(self) -> KafkaConsumer:
        """Raises KafkaError when there is no broker to begin with."""
        if self._consumer is None:
            self._consumer = KafkaConsumer(
                **connection(self._kafka), group_id=None, enable_auto_commit=False,
                auto_offset_reset="earliest", max_poll_records=FETCHED, metadata_max_age_ms=10_000,
            )  # fmt: skip
        return self._consumer

    def _fetch(self) -> None:
        for place, messages in self._connected().poll(timeout_ms=WAIT_MS, max_records=FETCHED).items():
            self._fetched[place.partition] += messages

    def _generation(self) -> int | None:
        """None while no relay has published anything."""
        with self._pool.connection() as connection:
            row = connection.execute(
                "select max(generation) as newest from generations where topic = %s", [self._kafka.topic]
            ).fetchone()
        return row["newest"] if row else None
