"""A turn: one request with its replies, the complete behaviour record that learning needs."""

import secrets
import time
from dataclasses import dataclass, field
from typing import Any

IMPORTED = "chatcmpl-i"
"""What the ids of turns begin with that nobody was answered in: they came from a file."""


def new_id() -> str:
    """A completion's id. It begins with its time (milliseconds, 12 hexadecimal digits), by which Postgres
    knows the week that the turn is kept with; the rest is chance."""
    return f"chatcmpl-t{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


@dataclass(frozen=True, slots=True)
class Reply:
    """One choice, exactly as sampled. `logprobs` are nats of the sampler, one per token of `token_ids`;
    the end token is included in both. `propensity` is the probability that the router gave `policy`."""

    choice: int
    policy: str
    propensity: float
    text: str
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One request. `id` is the completion id; `rater` a keyed hash; `sampling` what the engine was told."""

    id: str
    project: str
    conversation_id: str
    rater: str
    key_id: str
    messages: list[dict[str, Any]]
    prompt_token_ids: list[int]
    sampling: dict[str, Any]
    replies: list[Reply]
    metadata: dict[str, Any] = field(default_factory=dict)
