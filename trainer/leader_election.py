"""LeaderElection makes one trainer the leader of a project, by a Postgres advisory lock; no other trains it.

The locks of a trainer end with its connection, so a trainer that dies or loses the database loses them, and a
trainer whose machine vanishes loses them within a minute. A former leader that has not noticed can do no
harm: it publishes only while its round is open, and the new leader closes all open rounds.
"""

import contextlib
from dataclasses import dataclass, field

import psycopg
from psycopg.rows import DictRow

from schemas import lock_ids
from schemas.database import connect


class LeaderElection:
    """A trainer's candidacy for `project` on the database at `url`."""

    def __init__(self, url: str, project: str, session: "_Session | None" = None) -> None:
        self._project = project
        self._session = session or _Session(url)

    def of_project(self, project: str) -> "LeaderElection":
        """Returns the candidacy for another project, over the same connection."""
        return LeaderElection(self._session.url, project, self._session)

    @property
    def is_leader(self) -> bool:
        """Whether this trainer was the leader when it last asked."""
        return self._project in self._session.led

    def try_acquire(self) -> bool:
        """Returns whether this trainer is the leader; it becomes the leader if there is none. Raises
        psycopg.OperationalError, and gives up all leadership, when the database is away."""
        session = self._session
        try:
            if session.connection is None:
                session.connection = connect(session.url, timeout=5)
            if self.is_leader:
                session.connection.execute("select 1")
            else:
                row = session.connection.execute(
                    "select pg_try_advisory_lock(%s, hashtext(%s)) as locked",
                    [lock_ids.TRAINER, self._project],
                ).fetchone()
                if row is not None and row["locked"]:
                    session.led.add(self._project)
        except psycopg.OperationalError:
            self.release()
            raise
        return self.is_leader

    def release_project(self) -> None:
        """Gives up the leadership of this project alone. Raises psycopg.OperationalError, and gives up all
        leadership, when the database is away."""
        session = self._session
        if session.connection is None or not self.is_leader:
            return
        try:
            session.connection.execute(
                "select pg_advisory_unlock(%s, hashtext(%s))", [lock_ids.TRAINER, self._project]
            )
        except psycopg.OperationalError:
            self.release()
            raise
        session.led.discard(self._project)

    def release(self) -> None:
        """Gives up the leadership of all projects and closes the connection. The locks are released first:
        Postgres notices only a moment later that a connection was closed, and the next trainer would find
        them taken."""
        session = self._session
        connection, leads = session.connection, bool(session.led)
        session.connection = None
        session.led.clear()
        if connection is None:
            return
        if leads and not connection.closed:
            with contextlib.suppress(psycopg.Error):
                connection.execute("select pg_advisory_unlock_all()")
        connection.close()


@dataclass(slots=True)
class _Session:
    """The connection that holds a trainer's locks, and the projects that it leads."""

    url: str
    connection: psycopg.Connection[DictRow] | None = None
    led: set[str] = field(default_factory=set)
