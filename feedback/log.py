"""The log of feedback events: the port that the trainer reads.

Delivery is in order within a partition and at least once: whoever reads keeps its position in the same
transaction as what it derived from the entries, and so has each event exactly once.
"""

from typing import NamedTuple, Protocol

from schemas.database import Pool
from schemas.feedback import FeedbackEvent
from schemas.settings import Settings


class Entry(NamedTuple):
    """An event and the position just after it: store that to go on behind it."""

    partition: int
    position: str
    event: FeedbackEvent


class Log(Protocol):
    """Where events wait for those who learn from them. Positions are opaque outside their log."""

    name: str

    def partitions(self) -> list[int]:
        """Every partition. All events of one conversation are in the same one."""
        ...

    def read(self, partition: int, after: str | None, limit: int) -> list[Entry]:
        """At most `limit` entries behind the position `after` (None: from the start), in order; empty
        when there are none yet. Never delivers an event that an earlier one could still overtake."""
        ...

    def trim(self) -> int:
        """Remove what the trainer and every other consumer have passed; returns how many events."""
        ...

    def close(self) -> None: ...


def open_log(settings: Settings, pool: Pool) -> Log:
    """The log of this installation."""
    from feedback.postgres_log import PostgresLog

    return PostgresLog(pool)
