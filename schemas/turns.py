"""A turn is one request with its replies: the complete behaviour record that off-policy learning needs."""

import re
import secrets
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

COMPLETION_PREFIX = "chatcmpl-"
"""The beginning of the ids of turns."""
IMPORTED = "chatcmpl-i"
"""Prefix of the ids of turns that were imported from a file, or recorded by a server with its own chat."""

IMPORTED_POLICY = "imported"
"""The policy id of their replies; no policy of this name ever serves."""

_TIMED_ID = re.compile(r"chatcmpl-t([0-9a-f]{12})")


def new_id() -> str:
    """Returns a new completion id: the time (milliseconds, 12 hexadecimal digits), which selects the weekly
    partition of the turn, and 80 random bits."""
    return f"chatcmpl-t{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def bare_id(id: str) -> str:
    """Returns a completion id without its prefix, for ids of what belongs to it."""
    return id.removeprefix(COMPLETION_PREFIX)


def made_at(id: str) -> float | None:
    """Returns the time that a completion id begins with, in seconds since 1970; None where it has none."""
    made = _TIMED_ID.match(id)
    return None if made is None else int(made[1], 16) / 1_000


def is_fresh(id: str, seconds: float) -> bool:
    """Returns whether a completion id was made in the last `seconds`, by the time that it begins with."""
    made = made_at(id)
    return made is not None and time.time() - made < seconds


@dataclass(frozen=True, slots=True)
class Reply:
    """One choice, exactly as sampled. `logprobs` are the sampler's, in nats, one for each of `token_ids`;
    both include the end token. `message` is the whole message, with tool calls and thought, where it is more
    than text. `propensity` is the probability with which the router chose `policy`, `seconds` the time from
    the request to the reply's end, where that is known."""

    choice: int
    policy: str
    propensity: float
    text: str
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str
    message: dict[str, Any] | None = None
    seconds: float | None = None


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
    conversation_id: str
    messages: list[dict[str, Any]]
    sampling: dict[str, Any]
    metadata: dict[str, Any]
    request: dict[str, Any]
    created_at: datetime
    prompt_tokens: int
    replies: list[StoredReply]

    @property
    def created(self) -> int:
        """Returns when it was asked, in whole seconds since 1970, as its answer said."""
        return int(made_at(self.id) or self.created_at.timestamp())

    @property
    def conversation(self) -> list[dict[str, Any]]:
        """Returns the messages without what was said for this reply alone: the project's prompt, or the
        instructions of a response."""
        alone = "project_prompt" in self.request or "instructions" in self.request
        return self.messages[1:] if alone else self.messages


@dataclass(frozen=True, slots=True)
class Turn:
    """One request. `id` is the completion id, `rater` a keyed hash of the user, `sampling` the parameters
    that the engine got: `temperature`, `top_p` and all that `GenerationDefaults` has, as numbers, whether the
    request named them or not. It is empty where the turn was imported. `request` has what else shaped the
    prompt and the reply: tools, a response format, arguments of the chat template, and `project_prompt` where
    the first message is the project's own. `origin` names the network of a person whom no server names."""

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
    origin: str | None = None
