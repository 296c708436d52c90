"""LeaderElection makes one trainer of a project the leader, by a Postgres advisory lock; the others stand by.

The lock ends with its connection, so a trainer that dies or loses the database loses it, and a trainer whose
machine vanishes loses it within a minute. A former leader that has not noticed can do no harm: it publishes
only while its round is open, and the new leader closes all open rounds.
"""

import contextlib

import psycopg
from psycopg.rows import DictRow

from schemas import lock_ids
from schemas.database import connect


class LeaderElection:
    """A trainer's candidacy for `project` on the database at `url`."""

    def __init__(self, url: str, project: str) -> None:
        self._url = url
        self._project = project
        self._connection: psycopg.Connection[DictRow] | None = None
        self._is_leader = False

    def try_acquire(self) -> bool:
        """Returns whether this trainer is the leader; it becomes the leader if there is none. Raises
        psycopg.OperationalError, and gives up leadership, when the database is away."""
        try:
            if self._connection is None:
                self._connection = connect(self._url, timeout=5)
            if self._is_leader:
                self._connection.execute("select 1")
            else:
                row = self._connection.execute(
                    "select pg_try_advisory_lock(%s, hashtext(%s)) as locked",
                    [lock_ids.TRAINER, self._project],
                ).fetchone()
                self._is_leader = row is not None and bool(row["locked"])
        except psycopg.OperationalError:
            self.release()
            raise
        return self._is_leader

    def release(self) -> None:
        """Gives up leadership and closes the connection. The lock is released first: Postgres notices only a
        moment later that a connection was closed, and the next trainer would find the lock taken."""
        connection, leads = self._connection, self._is_leader
        self._connection, self._is_leader = None, False
        if connection is None:
            return
        if leads and not connection.closed:
            with contextlib.suppress(psycopg.Error):
                connection.execute(
                    "select pg_advisory_unlock(%s, hashtext(%s))", [lock_ids.TRAINER, self._project]
                )
        connection.close()
