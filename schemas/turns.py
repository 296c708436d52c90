"""A turn is one request with its replies: the complete behaviour record that off-policy learning needs."""

import re
import secrets
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

IMPORTED = "chatcmpl-i"
"""Prefix of the ids of turns that were imported from a file, or recorded by a server with its own chat."""

IMPORTED_POLICY = "imported"
"""The policy id of their replies; no policy of this name ever serves."""

_TIMED_ID = re.compile(r"chatcmpl-t([0-9a-f]{12})")


def new_id() -> str:
    """Returns a new completion id: the time (milliseconds, 12 hexadecimal digits), which selects the weekly
    partition of the turn, and 80 random bits."""
    return f"chatcmpl-t{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def is_fresh(id: str, seconds: float) -> bool:
    """Returns whether a completion id was made in the last `seconds`, by the time that it begins with."""
    made = _TIMED_ID.match(id)
    return made is not None and time.time() - int(made[1], 16) / 1_000 < seconds


@dataclass(frozen=True, slots=True)
class Reply:
    """One choice, exactly as sampled. `logprobs` are the sampler's, in nats, one for each of `token_ids`;
    both include the end token. `message` is the whole message, with tool calls and thought, where it is more
    than text. `propensity` is the probability with which the router chose `policy`."""

    choice: int
    policy: str
    propensity: float
    text: str
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str
    message: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class StoredReply:
    """A reply as it is read back, without what only training needs. `tokens` is their number."""

    choice: int
    policy: str
    text: str
    finish_reason: str
    message: dict[str, Any] | None
    tokens: int

    @property
    def whole_message(self) -> dict[str, Any]:
        """Returns the reply as a message of a chat."""
        return self.message or {"role": "assistant", "content": self.text}


@dataclass(frozen=True, slots=True)
class StoredTurn:
    """A turn as it is read back, without what only training needs. `prompt_tokens` is a number of tokens."""

    id: str
    messages: list[dict[str, Any]]
    sampling: dict[str, Any]
    metadata: dict[str, Any]
    request: dict[str, Any]
    created_at: datetime
    prompt_tokens: int
    replies: list[StoredReply]


@dataclass(frozen=True, slots=True)
class Turn:
    """One request. `id` is the completion id, `rater` a keyed hash of the user, `sampling` the parameters
    that the engine got: `temperature`, `top_p` and all that `GenerationDefaults` has, as numbers, whether the
    request named them or not. It is empty where the turn was imported. `request` has what else shaped the
    prompt and the reply: tools, a response format, arguments of the chat template."""

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
    request: dict[str, Any] = field(default_factory=dict)
