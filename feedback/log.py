"""The log of feedback events: the port that the trainer reads.

Delivery is in order within a partition and at least once: whoever reads keeps its position in the same
transaction as what it derived from the entries, and so has each event exactly once.
"""

from typing import NamedTuple, Protocol

from pydantic import ValidationError

from schemas.database import Pool
from schemas.feedback import FeedbackEvent
from schemas.settings import Settings


class Unreadable(NamedTuple):
    """What a log delivered in an event's place, and why it is none."""

    reason: str
    payload: str


class Entry(NamedTuple):
    """An event and the position just after it: store that to go on behind it."""

    partition: int
    position: str
    event: FeedbackEvent | Unreadable


def read_event(payload: str | bytes) -> FeedbackEvent | Unreadable:
    """The event in a payload. Unknown fields are let pass: a newer writer may add some. A version that
    this code does not know, or anything else, is unreadable."""
    try:
        return FeedbackEvent.model_validate_json(payload)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        text = payload.decode(errors="replace") if isinstance(payload, bytes) else payload
        return Unreadable(f"{where}: {first['msg']}" if where else first["msg"], text.replace("\0", "�"))


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
    """The log of this installation: the broker's where one is named, else the outbox itself."""
    if settings.kafka.servers:
        from feedback.kafka_log import KafkaLog

        return KafkaLog(settings.kafka, pool)
    from feedback.postgres_log import PostgresLog

    return PostgresLog(pool)
