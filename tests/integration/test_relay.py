"""The relay survives a real broker that stops, comes back empty, or is served by two relays."""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import psycopg
import pytest
from kafka import KafkaAdminClient

from feedback import relay
from feedback.kafka_log import KafkaLog
from schemas.database import Pool
from schemas.settings import KafkaSettings
from tests.broker import Broker, relaying
from tests.events import Reader, event, ingest_until, put, put_each, put_json
from trainer.data.ingest import consumer_offsets, ingest


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay checks the broker every 0.2 s, not every 5 s."""
    monkeypatch.setattr(relay, "VERIFY", 0.2)
    monkeypatch.setattr(relay, "PAUSE", 0.2)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows each time that the relay has found at the broker what it expects."""
    seen: list[None] = []
    verify = relay.Relay._verify

    def counted(active: relay.Relay) -> None:
        verify(active)
        seen.append(None)

    monkeypatch.setattr(relay.Relay, "_verify", counted)
    return seen


@pytest.fixture
def broker() -> Iterator[Broker]:
    broker = Broker()
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def kafka(broker: Broker) -> KafkaSettings:
    return KafkaSettings(servers=[broker.address], topic=f"test.{uuid.uuid4().hex}", partitions=3)


@pytest.fixture
def log(kafka: KafkaSettings, pool: Pool) -> Iterator[KafkaLog]:
    log = KafkaLog(kafka, pool)
    yield log
    log.close()


def in_conversations(url: str, count: int, each: int = 1) -> list[str]:
    """Write events to the outbox, round robin over `count` conversations; returns their ids."""
    names = [f"{number:04d}" for number in range(count * each)]
    with psycopg.connect(url, autocommit=True) as connection:
        for number, name in enumerate(names):
            put(connection, event(name, f"conv-{number % count}"))
    return [f"ev_{name}" for name in names]


def unpublished(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute('select count(*) from outbox where "offset" is null').fetchone()
    assert row is not None
    return int(row[0])


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_conversations_spread_over_partitions_and_keep_their_order(
    kafka: KafkaSettings, log: KafkaLog, database_url: str
) -> None:
    with relaying(database_url, kafka):
        written = in_conversations(database_url, 12, each=5)
        reader = Reader(log)
        seen = reader.poll_until(60)

    assert sorted(seen) == written
    assert len(reader.positions) > 1
    for conversation in range(12):
        assert [name for name in seen if name in set(written[conversation::12])] == written[conversation::12]


def test_a_broker_that_is_away_loses_nothing_and_the_backlog_drains(
    kafka: KafkaSettings, log: KafkaLog, pool: Pool, database_url: str, broker: Broker
) -> None:
    broker.kill()
    with relaying(database_url, kafka):
        written = in_conversations(database_url, 4, each=5)
        time.sleep(0.5)
        assert unpublished(database_url) == 20
        assert ingest(pool, log) == 0

        broker.start()

        assert ingest_until(pool, log, 20) == written


def test_a_broker_that_lost_its_data_is_given_it_again(
    kafka: KafkaSettings, log: KafkaLog, pool: Pool, database_url: str, broker: Broker
) -> None:
    with relaying(database_url, kafka):
        in_conversations(database_url, 4, each=5)
        assert len(ingest_until(pool, log, 20)) == 20
        late = [f"late-{number}" for number in range(8)]
        put_each(database_url, *late)
        until(lambda: not unpublished(database_url))
        broker.kill()  # with eight events that the trainer has not seen
        broker.start()
        put_each(database_url, "after")

        found = ingest_until(pool, log, 29)

    assert [name for name in found if "late" in name] == [f"ev_{name}" for name in late]
    assert "ev_after" in found
    assert len(found) == 29
    with pool.connection() as connection:
        rows = connection.execute("select reason from generations order by generation").fetchall()
    # A broker that lost its memory gives the old producer's id again, which may count as one more loss.
    assert [row["reason"] for row in rows][:2] == ["the topic is new", "the topic has another id"]


def test_a_topic_that_has_more_partitions_now_is_read_whole(
    kafka: KafkaSettings, log: KafkaLog, pool: Pool, database_url: str
) -> None:
    with relaying(database_url, kafka.model_copy(update={"partitions": 1})):
        written = in_conversations(database_url, 8)
        assert ingest_until(pool, log, 8) == written
        assert log.partitions() == [0]
    # The tests' broker cannot add any: the topic is made anew, which the reader sees as more of them.
    with closing(KafkaAdminClient(bootstrap_servers=kafka.servers)) as admin:
        admin.delete_topics([kafka.topic])
        admin.create_topics({kafka.topic: {"num_partitions": 3, "replication_factor": 1}})

    with relaying(database_url, kafka):
        with psycopg.connect(database_url, autocommit=True) as connection:
            for number in range(8):
                put(connection, event(f"later-{number}", f"conv-{number}"))

        assert ingest_until(pool, log, 16) == [*written, *(f"ev_later-{number}" for number in range(8))]

    assert log.partitions() == [0, 1, 2]
    assert len(consumer_offsets(pool)) == 3


def test_a_batch_without_stored_offsets_is_sent_again_without_effect(
    kafka: KafkaSettings, log: KafkaLog, pool: Pool, database_url: str
) -> None:
    with relaying(database_url, kafka):
        written = in_conversations(database_url, 3, each=4)
        ingest_until(pool, log, 12)
        with psycopg.connect(database_url) as connection:  # as if the relay had died before it marked them
            connection.execute('update outbox set partition = null, "offset" = null')
        until(lambda: not unpublished(database_url))
        put_each(database_url, "last")

        assert ingest_until(pool, log, 13) == sorted([*written, "ev_last"])


def test_one_relay_works_and_another_takes_over(
    kafka: KafkaSettings, log: KafkaLog, database_url: str
) -> None:
    reader = Reader(log)
    with ExitStack() as second:
        with relaying(database_url, kafka):
            put_each(database_url, "a")
            reader.poll_until(1)
            second.enter_context(relaying(database_url, kafka))
            time.sleep(0.6)  # three times as long as the second waits between its attempts
            with psycopg.connect(database_url) as connection:
                held = connection.execute(
                    "select granted from pg_locks where locktype = 'advisory' and database ="
                    " (select oid from pg_database where datname = current_database())"
                ).fetchall()
            assert held == [(True,)]
        put_each(database_url, "b")

        assert reader.poll_until(2) == ["ev_a", "ev_b"]


@pytest.mark.parametrize("last", [{"version": "hearken.feedback.v9"}, ["odd"]])
def test_an_event_that_the_relay_cannot_read_is_no_loss_of_data(
    kafka: KafkaSettings, pool: Pool, database_url: str, looks: list[None], last: object
) -> None:
    with relaying(database_url, kafka):
        put_json(database_url, "last", last)
        until(lambda: not unpublished(database_url))
        before = len(looks)
        until(lambda: len(looks) >= before + 2)  # of which one began after the event was there

    with pool.connection() as connection:
        rows = connection.execute("select reason from generations").fetchall()
    assert rows == [{"reason": "the topic is new"}]


def test_trimming_waits_for_the_trainer(
    kafka: KafkaSettings, log: KafkaLog, pool: Pool, database_url: str
) -> None:
    with relaying(database_url, kafka):
        in_conversations(database_url, 6)
        assert log.trim() == 0
        ingest_until(pool, log, 6)
        put_each(database_url, "unseen")

        assert log.trim() == 6


def test_trimming_waits_for_a_consumer_that_is_a_generation_behind(
    kafka: KafkaSettings, log: KafkaLog, pool: Pool, database_url: str
) -> None:
    with relaying(database_url, kafka):
        in_conversations(database_url, 1, each=3)
        ingest_until(pool, log, 3)
        with psycopg.connect(database_url) as connection:
            connection.execute(
                "insert into consumer_offsets (consumer, log, partition, position)"
                " select 'other', log, partition, '0:99' from consumer_offsets where consumer = 'trainer'"
            )
        assert log.trim() == 0
        with psycopg.connect(database_url) as connection:
            connection.execute("delete from consumer_offsets where consumer = 'other'")

        assert log.trim() == 3
