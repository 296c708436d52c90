"""The auditor is a second consumer of the log beside the trainer; it only records what is delivered."""

import threading

import psycopg

from feedback.log import Entry, Log
from feedback.open_log import open_log
from schemas.database import Pool, open_pool
from schemas.settings import KafkaSettings, Settings

NAME = "auditor"
BATCH = 500
POLL = 0.2  # seconds
BEGINNING = "0:0"  # of either log


class Auditor(threading.Thread):
    """A consumer thread. Its position is in Postgres, so that nothing is trimmed before it has read it,
    however often broker and database are down. `entries` are all deliveries in order, some of them
    repeated."""

    def __init__(self, url: str, kafka: KafkaSettings) -> None:
        super().__init__(name=NAME, daemon=True)
        self.entries: list[Entry] = []
        self.done = threading.Event()
        self._kafka = kafka
        self._url = url
        with psycopg.connect(url) as connection:
            for log in ("kafka", "postgres"):
                for partition in range(kafka.partitions):
                    connection.execute(
                        "insert into consumer_offsets (consumer, log, partition, position)"
                        " values (%s, %s, %s, %s)",
                        [NAME, log, partition, BEGINNING],
                    )

    def run(self) -> None:
        with open_pool(self._url, size=1) as pool:
            log = open_log(Settings(kafka=self._kafka), pool)
            try:
                while not self.done.wait(POLL):
                    try:
                        for partition in log.partitions():
                            self._read(pool, log, partition)
                    except psycopg.OperationalError:  # Postgres is down
                        continue
            finally:
                log.close()

    def _read(self, pool: Pool, log: Log, partition: int) -> None:
        with pool.connection() as connection:
            mine = [NAME, log.name, partition]
            row = connection.execute(
                "select position from consumer_offsets where consumer = %s and log = %s and partition = %s",
                mine,
            ).fetchone()
            assert row is not None
        entries = log.read(partition, row["position"], BATCH)
        if not entries:
            return
        self.entries += entries
        with pool.connection() as connection:
            connection.execute(
                "update consumer_offsets set position = %s, updated_at = now()"
                " where consumer = %s and log = %s and partition = %s",
                [entries[-1].position, *mine],
            )
