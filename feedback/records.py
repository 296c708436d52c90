"""What the store takes and answers beside votes and turns."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple


class IdempotencyKey(NamedTuple):
    """`key` as the caller `key_id` sent it, and the sha256 of the request that it belongs to."""

    key_id: str
    key: str
    request_hash: bytes


@dataclass(frozen=True, slots=True)
class Recorded:
    """A durable vote. `new` is false when an Idempotency-Key brought back an earlier answer."""

    id: str
    completion_id: str
    new: bool
    supersedes: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A stored vote without its text. `policy` first learned from it and answered everybody at `live_at`."""

    id: str
    project: str
    completion_id: str
    choice: int | None
    type: str
    value: dict[str, Any]
    rater: str
    created_at: datetime
    superseded_by: str | None
    conversation_id: str
    turn_rater: str
    status: str
    policy: str | None
    live_at: datetime | None


class Learned(NamedTuple):
    """A vote that some policy was the first to learn from."""

    feedback_id: str
    turn_id: str
    rater: str
