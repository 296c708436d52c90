"""LogReader reads the log of votes into training examples, also while a round trains."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import structlog

from feedback.log import Log
from schemas.database import Pool
from trainer.data.ingest import ingest

POLL_SECONDS = 0.5
"""Seconds from one poll of the log to the next."""

TRIM_SECONDS = 60.0
"""Seconds from one removal of consumed log entries to the next."""

log = structlog.get_logger("trainer")


class LogReader:
    """Reads `votes`, which has those of all projects."""

    def __init__(self, pool: Pool, votes: Log) -> None:
        self._pool = pool
        self.votes = votes
        self._trimmed = -TRIM_SECONDS

    def read(self) -> None:
        """Reads the log to its end, and now and then removes what was read."""
        ingest(self._pool, self.votes)
        if time.monotonic() - self._trimmed >= TRIM_SECONDS:
            self.votes.trim()
            self._trimmed = time.monotonic()

    @contextmanager
    def in_background(self) -> Iterator[None]:
        """Inside, reads the log in another thread, so that it does not grow as long as a round takes. The
        round's inputs are named at its start, so what comes later is for the next one."""
        ended = threading.Event()

        def read() -> None:
            while not ended.wait(POLL_SECONDS):
                try:
                    self.read()
                except psycopg.OperationalError as error:
                    log.warning("database is away", error=type(error).__name__)

        thread = threading.Thread(target=read, name="log reader", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
