"""These records are the store's parameters and results, beside votes and turns."""

import hashlib
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self


class IdempotencyKey(NamedTuple):
    """`key` as the API key `key_id` sent it, and the sha256 of its request."""

    key_id: str
    key: str
    request_hash: bytes


class Received(NamedTuple):
    """The id of a vote, when it came, and whether it was kept back since then (`late`)."""

    id: str
    at: datetime
    late: bool = False

    @classmethod
    def now(cls, *request: str) -> Self:
        """Returns a new id, or the one that belongs to a request, which has it whoever answers."""
        name = hashlib.sha256("\n".join(request).encode()).hexdigest()[:32] if request else uuid.uuid4().hex
        return cls(f"fb_{name}", datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class Recorded:
    """A durable vote. `new` is false when an Idempotency-Key returned an earlier response; `spooled` is true
    where the vote waits on the disk of one machine for Postgres."""

    id: str
    completion_id: str
    new: bool
    supersedes: str | None = None
    spooled: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """A stored vote without its text. `policy` is the first that learned from it, live since `live_at`."""

    id: str
    project: str
    completion_id: str
    choice: int | None
    type: str
    value: dict[str, Any]
    rater: str
    created_at: datetime
    superseded_by: str | None
    turn_rater: str
    status: str
    policy: str | None
    live_at: datetime | None


class Learned(NamedTuple):
    """A vote and its rater, of those that a given policy was the first to learn from."""

    feedback_id: str
    turn_id: str
    rater: str
