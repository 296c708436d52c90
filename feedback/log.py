"""The log of feedback events is the port that the trainer reads; each transport implements it.

Delivery is in order within a partition and at least once. A consumer stores its offset in the transaction of
what it derives from the entries, and so applies each event exactly once.
"""

from typing import NamedTuple, Protocol

from pydantic import ValidationError
from pydantic_core import from_json

from feedback import versions
from schemas.feedback import FeedbackEvent


class Unreadable(NamedTuple):
    """A payload that is no event, and the reason. The consumer writes it to the dead letters."""

    reason: str
    payload: str


class NewerVersion(NamedTuple):
    """An event of a version that this code does not know yet. The consumer stops before it until newer code
    takes over: later events may depend on it."""

    version: str


class Entry(NamedTuple):
    """An event and the position after it, from which reading continues."""

    partition: int
    position: str
    event: FeedbackEvent | Unreadable | NewerVersion


def read_event(payload: str | bytes) -> FeedbackEvent | Unreadable | NewerVersion:
    """Returns the event in a payload, upcast to the newest version. Unknown fields are ignored: a newer
    writer may add some."""
    try:
        found = from_json(payload)
    except ValueError as error:
        return _unreadable(f"no JSON: {error}", payload)
    if isinstance(found, dict):
        found = versions.upcast(found)
        version = str(found.get("version"))
        if versions.is_newer(version):
            return NewerVersion(version)
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
    """An ordered, partitioned log of events. Positions are opaque outside their log."""

    name: str

    def partitions(self) -> list[int]:
        """Returns every partition. All events of one turn are in the same one, until some are added."""
        ...

    def read(self, partition: int, after: str | None, limit: int) -> list[Entry]:
        """Returns at most `limit` entries after the position `after` (None: from the start), in order; none
        when there are no more yet. Never delivers an event while an earlier one may still appear."""
        ...

    def trim(self) -> int:
        """Remove the events that the trainer and every other consumer have passed; returns how many."""
        ...

    def close(self) -> None: ...
