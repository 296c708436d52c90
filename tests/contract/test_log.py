"""This contract holds for every log of feedback events, whichever adapter implements the port."""

import random
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from feedback.log import Log, NewerVersion
from feedback.open_log import open_log
from feedback.versions import UPCASTS
from schemas.database import Pool
from schemas.settings import KafkaSettings, Settings
from tests.broker import Broker, relaying
from tests.events import Reader, event, ingest_until, learned, put, put_each, put_json, read_until
from trainer.data.dead_letters import dead_letters, retry
from trainer.data.ingest import ingest


@pytest.fixture(params=["postgres", "kafka"])
def log(request: pytest.FixtureRequest, pool: Pool, database_url: str) -> Iterator[Log]:
    """The log under test; on a broker, with one partition and a relay that fills it."""
    with ExitStack() as stack:
        kafka = KafkaSettings()
        if request.param == "kafka":
            broker: Broker = request.getfixturevalue("broker")
            kafka = KafkaSettings(servers=[broker.address], topic=f"test.{uuid.uuid4().hex}", partitions=1)
            stack.enter_context(relaying(database_url, kafka))
        log = open_log(Settings(kafka=kafka), pool)
        assert log.name == request.param
        stack.callback(log.close)
        yield log


def pass_to(url: str, consumer: str, log: Log, position: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "insert into consumer_offsets (consumer, log, partition, position) values (%s, %s, 0, %s)"
            " on conflict (consumer, log, partition) do update set position = excluded.position",
            [consumer, log.name, position],
        )


def wait_for_offsets(log: Log, url: str, seconds: float = 30) -> None:
    """Returns once the relay has noted where each message lies: it does so after the broker has them."""
    deadline = time.monotonic() + seconds
    with psycopg.connect(url, autocommit=True) as connection:
        while log.name == "kafka" and time.monotonic() < deadline:
            if not connection.execute('select from outbox where "offset" is null').fetchall():
                break
            time.sleep(0.02)


def waits_for(pool: Pool) -> list[str]:
    with pool.connection() as connection:
        return [
            row["version"] for row in connection.execute("select version from blocked_partitions").fetchall()
        ]


def test_an_empty_log_has_nothing_to_read(log: Log) -> None:
    assert Reader(log).poll() == []


def test_events_arrive_whole_and_in_order(log: Log, database_url: str) -> None:
    put_each(database_url, "a", "b", "c")

    assert Reader(log).poll_until(3) == ["ev_a", "ev_b", "ev_c"]
    assert read_until(log, None, 1)[0].event == event("a")


def test_a_position_is_where_reading_goes_on(log: Log, database_url: str) -> None:
    put_each(database_url, "a", "b", "c", "d", "e")
    reader = Reader(log)
    reader.poll_until(5)

    first = read_until(log, None, 2)
    rest = read_until(log, first[-1].position, 3)

    assert [entry.event.event_id for entry in first] == ["ev_a", "ev_b"]
    assert [entry.event.event_id for entry in rest] == ["ev_c", "ev_d", "ev_e"]
    assert log.read(0, rest[-1].position, 10) == []


def test_positions_compare_as_numbers(log: Log, database_url: str) -> None:
    names = [f"{number:03d}" for number in range(120)]  # ids of one, two and three digits
    put_each(database_url, *names)
    reader = Reader(log)

    while reader.poll(limit=7):
        pass

    assert reader.poll_until(120) == [f"ev_{name}" for name in names]


def test_what_was_rolled_back_never_happened(log: Log, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        put(connection, event("gone"))
        connection.rollback()
    put_each(database_url, "stays")

    assert Reader(log).poll_until(1) == ["ev_stays"]


def test_commits_out_of_id_order_are_both_delivered_once_in_order(log: Log, database_url: str) -> None:
    reader = Reader(log)
    with psycopg.connect(database_url) as early, psycopg.connect(database_url) as late:
        put(early, event("early"))  # takes the smaller id …
        put(late, event("late"))
        late.commit()  # … and commits second

        assert reader.poll() == []  # to deliver `late` now would be to lose `early`
        early.commit()

    assert reader.poll_until(2) == ["ev_early", "ev_late"]
    assert reader.poll() == []


def test_transactions_that_took_their_ids_in_the_other_order_are_both_delivered(
    log: Log, database_url: str
) -> None:
    reader = Reader(log)
    with psycopg.connect(database_url) as first, psycopg.connect(database_url) as second:
        first.execute("select pg_current_xact_id()")  # the smaller transaction id …
        put(second, event("second"))  # … but the larger row id
        put(first, event("first"))
        first.commit()
        # Everything below the transaction that is still open may be read, and nothing else.
        assert reader.poll_until(1) == ["ev_first"]
        second.commit()

    assert reader.poll_until(2) == ["ev_first", "ev_second"]
    assert reader.poll() == []


def test_many_writers_while_a_reader_polls(log: Log, database_url: str) -> None:
    writers, events_each = 8, 40
    committed: list[list[str]] = [[] for _ in range(writers)]

    def write(writer: int) -> None:
        chance = random.Random(writer)
        with psycopg.connect(database_url) as connection:
            for _ in range(events_each):
                name = uuid.uuid4().hex
                put(connection, event(name, f"conv-{writer}"))
                time.sleep(chance.uniform(0, 0.01))
                if chance.random() < 0.2:
                    connection.rollback()
                else:
                    connection.commit()
                    committed[writer].append(f"ev_{name}")

    threads = [threading.Thread(target=write, args=[writer]) for writer in range(writers)]
    for thread in threads:
        thread.start()
    reader = Reader(log)
    while any(thread.is_alive() for thread in threads):
        reader.poll(limit=5)
    seen = reader.poll_until(sum(len(names) for names in committed))

    assert sorted(seen) == sorted(name for names in committed for name in names)
    for names in committed:
        assert [name for name in seen if name in set(names)] == names


def test_an_event_of_an_older_version_comes_in_the_newest(
    log: Log, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def name_the_rater(older: dict[str, Any]) -> dict[str, Any]:
        return {**older, "version": "hearken.feedback.v0", "rater": f"u_{older['who']}"}

    def name_the_person(older: dict[str, Any]) -> dict[str, Any]:
        return {**older, "version": "hearken.feedback.v1", "rater": older["rater"].lower()}

    monkeypatch.setitem(UPCASTS, "hearken.feedback.draft", name_the_rater)
    monkeypatch.setitem(UPCASTS, "hearken.feedback.v0", name_the_person)
    older = event("a").model_dump(mode="json", exclude={"rater"})
    put_json(database_url, "a", {**older, "version": "hearken.feedback.draft", "who": "Ada"})

    assert read_until(log, None, 1)[0].event == event("a")


def test_an_event_of_a_newer_version_blocks_its_partition_until_code_knows_it(
    log: Log, pool: Pool, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_each(database_url, "a")
    newer = event("b").model_dump(mode="json") | {"version": "hearken.feedback.v3"}
    put_json(database_url, "b", newer)
    put_each(database_url, "c")
    assert read_until(log, None, 3)[1].event == NewerVersion("hearken.feedback.v3")
    assert ingest_until(pool, log, 1) == ["ev_a"]
    assert ingest(pool, log) == 0
    assert waits_for(pool) == ["hearken.feedback.v3"]

    monkeypatch.setitem(
        UPCASTS, "hearken.feedback.v3", lambda event: event | {"version": "hearken.feedback.v2"}
    )

    assert ingest_until(pool, log, 3) == ["ev_a", "ev_b", "ev_c"]
    assert waits_for(pool) == []
    assert dead_letters(pool) == []


def test_an_unreadable_payload_becomes_a_dead_letter_with_the_reason(
    log: Log, pool: Pool, database_url: str
) -> None:
    put_each(database_url, "before")
    put_json(database_url, "older", event("older").model_dump(mode="json") | {"version": "somebody.else.v1"})
    put_json(database_url, "odd", [1])
    put_each(database_url, "behind")

    assert ingest_until(pool, log, 2) == ["ev_before", "ev_behind"]

    older, odd = sorted(dead_letters(pool), key=lambda letter: letter.payload, reverse=True)
    assert older.log == odd.log == log.name
    assert "version" in older.reason
    assert "somebody.else.v1" in older.payload
    assert odd.payload == "[1]"


def test_a_refused_event_becomes_a_dead_letter_and_is_retried_once_repaired(
    log: Log, pool: Pool, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_each(database_url, "before")
    put_json(database_url, "lost", event("lost").model_dump(mode="json") | {"project": "lost"})
    put_json(database_url, "huge", event("huge").model_dump(mode="json") | {"choice": 2**40})
    put_each(database_url, "behind")

    assert ingest_until(pool, log, 2) == ["ev_before", "ev_behind"]

    assert {"foreign key" in letter.reason for letter in dead_letters(pool)} == {True, False}
    assert retry(pool) == 0
    with pool.connection() as connection:
        connection.execute("insert into projects (id) values ('lost')")
    with monkeypatch.context() as few:
        few.setattr("trainer.data.dead_letters.AT_ONCE", 1)
        assert len(dead_letters(pool)) == 1
        assert retry(pool) == 1, "the one behind it, too"
    assert learned(pool) == ["ev_before", "ev_behind", "ev_lost"]
    assert ["out of range" in letter.reason for letter in dead_letters(pool)] == [True]


def test_only_what_the_trainer_and_every_other_consumer_have_passed_is_trimmed(
    log: Log, database_url: str
) -> None:
    put_each(database_url, "a", "b", "c", "d")
    Reader(log).poll_until(4)
    positions = [entry.position for entry in read_until(log, None, 4)]
    wait_for_offsets(log, database_url)
    trimmed = []

    for consumer, position in [(None, ""), ("other", positions[1]), ("trainer", positions[2])]:
        if consumer:
            pass_to(database_url, consumer, log, position)
        trimmed.append(log.trim())
    pass_to(database_url, "other", log, positions[3])
    trimmed.append(log.trim())

    assert trimmed == [0, 0, 2, 1]
    with psycopg.connect(database_url) as connection:
        assert connection.execute("select event_id from outbox").fetchall() == [("ev_d",)]
    assert [entry.event.event_id for entry in read_until(log, positions[2], 1)] == ["ev_d"]
