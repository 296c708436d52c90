"""The log of feedback events: the port that the trainer reads.

Delivery is in order within a partition and at least once: whoever reads keeps its position in the same
transaction as what it derived from the entries, and so has each event exactly once.
"""

from typing import NamedTuple, Protocol

from pydantic import ValidationError
from pydantic_core import from_json

from feedback import versions
from schemas.database import Pool
from schemas.feedback import FeedbackEvent
from schemas.settings import Settings


class Unreadable(NamedTuple):
    """What a log delivered in an event's place, and why it is none."""

    reason: str
    payload: str


class Newer(NamedTuple):
    """An event of a version that this code does not know yet. Whoever reads waits before it for code that
    does: what is behind may depend on it."""

    version: str


class Entry(NamedTuple):
    """An event and the position just after it: store that to go on behind it."""

    partition: int
    position: str
    event: FeedbackEvent | Unreadable | Newer


def read_event(payload: str | bytes) -> FeedbackEvent | Unreadable | Newer:
    """The event in a payload, an older version's brought up to the newest. Unknown fields are let pass: a
    newer writer may add some."""
    try:
        found = from_json(payload)
    except ValueError as error:
        return _unreadable(f"no JSON: {error}", payload)
    if isinstance(found, dict):
        found = versions.upcast(found)
        version = str(found.get("version"))
        if versions.is_newer(version):
            return Newer(version)
    try:
        return FeedbackEvent.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        return _unreadable(f"{where}: {first['msg']}" if where else first["msg"], payload)


def _unreadable(reason: str, payload: str | bytes) -> Unreadable:
    text = payload.decode(errors="replace") if isinstance(payload, bytes) else payload
    return Unreadable(reason, text.replace("\0", "�"))


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
