"""How fast the relay empties an outbox, against a bare producer: `python -m tests.bench.relay`.

The same events, the same broker (in memory, so that the broker limits nobody), the same producer settings,
in turns: `ROUNDS` pairs, and the median of the ratios; a pair of two bare runs is the control. Promised: at
least 0.8 of the bare producer's rate. About two minutes.

With `--kept 10000000`, the outbox also keeps so many published events that nobody has passed yet, and the
comparison is with an outbox that keeps none. Promised: at least 0.8 of that rate.
"""

import argparse
import json
import statistics
import sys
import time
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import LiteralString

import psycopg
from kafka import KafkaProducer
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb

from deploy.local.postgres import EmbeddedPostgres
from feedback import relay
from feedback.broker import connection as broker_connection
from schemas.database import migrate
from schemas.settings import KafkaSettings
from tests.broker import Broker
from tests.events import event

EVENTS = 20_000
ROUNDS = 3


def bare(broker: Broker) -> float:
    """Events/s of a producer that is given the events and nothing else to do."""
    kafka = _topic(broker)
    values = [(f"conv-{n // 4}".encode(), event(str(n)).model_dump_json().encode()) for n in range(EVENTS)]
    producer = KafkaProducer(
        **broker_connection(kafka), acks="all", enable_idempotence=True, linger_ms=5,
        batch_size=relay.BATCH_BYTES, max_in_flight_requests_per_connection=1,
    )  # fmt: skip
    producer.send(kafka.topic, key=b"warm", value=b"up").get(timeout=30)
    began = time.perf_counter()
    sent = [producer.send(kafka.topic, key=key, value=value) for key, value in values]
    producer.flush()
    for future in sent:
        future.get(timeout=0)
    seconds = time.perf_counter() - began
    producer.close()
    return EVENTS / seconds


KEEP: LiteralString = """
    insert into outbox (project, event_id, conversation_id, event, partition, "offset")
    select 'default', 'kept_' || partition || '_' || number, 'conv-' || number, '{}', partition,
        number %% "offset"
    from published_outbox, generate_series(1, %s / (select count(*) from published_outbox)) as number
"""
"""Keeps more events, at offsets that the broker has given, below the newest of each partition."""


def relayed(broker: Broker, url: str, kept: int = 0) -> float:
    """Events/s of the relay on an outbox that holds them, and `kept` published ones."""
    kafka = _topic(broker)
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute("truncate outbox")
        active = relay.Relay(kafka, connection)
        if kept:
            _fill(connection, 1_000)
            _relay_all(active)
            connection.execute(KEEP, [kept])
        _fill(connection, EVENTS)
        connection.execute("vacuum analyze outbox")
        active.step()  # finds a new topic
        began = time.perf_counter()
        _relay_all(active)
        seconds = time.perf_counter() - began
        active.close()
    return EVENTS / seconds


def _fill(connection: psycopg.Connection[DictRow], events: int) -> None:
    with connection.cursor().copy(
        "copy outbox (project, event_id, conversation_id, event) from stdin"
    ) as copy:
        for number in range(events):
            payload = Jsonb(event(str(number)).model_dump(mode="json"))
            copy.write_row(("default", f"ev_{events}_{number}", f"conv-{number // 4}", payload))


def _relay_all(active: relay.Relay) -> None:
    while active.step():
        pass


def _topic(broker: Broker) -> KafkaSettings:
    return KafkaSettings(servers=[broker.address], topic=f"bench.{uuid.uuid4().hex}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kept", type=int, default=0, help="published events that the outbox keeps")
    kept = parser.parse_args().kept
    broker = Broker()
    with TemporaryDirectory(prefix="hearken-bench-") as folder:
        postgres = EmbeddedPostgres(Path(folder).resolve() / "postgres")
        url = postgres.start()
        migrate(url)
        broker.start()
        try:
            bare(broker)

            def reference() -> float:
                return relayed(broker, url) if kept else bare(broker)

            runs = [(reference(), relayed(broker, url, kept), reference()) for _ in range(ROUNDS)]
        finally:
            broker.kill()
            postgres.stop()
    ratio = statistics.median(relayed / first for first, relayed, _ in runs)
    control = statistics.median(second / first for first, _, second in runs)
    rates = [statistics.median(run[column] for run in runs) for column in (0, 1)]
    name = "none kept" if kept else "bare"
    print(f"{name} {rates[0]:.0f}/s, relay {rates[1]:.0f}/s: {ratio:.2f} of it (control {control:.2f})")
    print(json.dumps({"ratio": ratio, "control": control, "reference": rates[0], "relay": rates[1]}))
    return 0 if ratio >= 0.8 else 1


if __name__ == "__main__":
    sys.exit(main())
