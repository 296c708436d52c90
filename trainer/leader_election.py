"""One trainer works for a project at a time; the others stand by.

The lock is Postgres' own and goes with its connection, so a trainer that died, or lost the database, has
given way, and one whose machine vanished has within a minute. One that still believes itself active can do no
harm: it publishes only while its round is open, and whoever takes over closes the rounds that it finds open.
"""

import psycopg
from psycopg.rows import DictRow

from schemas import places
from schemas.database import connect


class LeaderElection:
    """A trainer's place for `project`, on the database at `url`: taken, or waited for."""

    def __init__(self, url: str, project: str) -> None:
        self._url = url
        self._project = project
        self._connection: psycopg.Connection[DictRow] | None = None
        self._held = False

    def try_acquire(self) -> bool:
        """Whether this trainer has the place; takes it when it is free. Raises psycopg.OperationalError when
        the database is away, and with it the place."""
        try:
            if self._connection is None:
                self._connection = connect(self._url, timeout=5)
            if self._held:
                self._connection.execute("select 1")
            else:
                row = self._connection.execute(
                    "select pg_try_advisory_lock(%s, hashtext(%s)) as locked",
                    [places.TRAINER, self._project],
                ).fetchone()
                self._held = row is not None and bool(row["locked"])
        except psycopg.OperationalError:
            self.release()
            raise
        return self._held

    def release(self) -> None:
        self._held = False
        if self._connection is not None:
            self._connection.close()
            self._connection = None
