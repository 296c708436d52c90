"""Webhooks follow the Standard Webhooks specification (standardwebhooks.com): the types of events, their
bodies and their signatures."""

import base64
import hashlib
import hmac
import secrets
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, field_validator

from schemas.times import rfc3339

EventType = Literal[
    "vote.recorded", "vote.superseded", "vote.retracted",
    "vote.held_out", "vote.learned", "vote.live", "vote.taken_back",
    "round.started", "round.ended",
    "policy.published", "policy.live", "policy.rolled_back", "policy.rejected",
    "rollout.started", "rollout.ended",
]  # fmt: skip
"""Those of votes have a list of up to a hundred votes; none has any text that a person wrote."""

_PREFIX = "whsec_"


class NewWebhook(BaseModel):
    """Where events of the project go, and which; all of them where none is named."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: Annotated[str, Field(min_length=1, max_length=2_000)]
    events: Annotated[list[EventType], Field(max_length=32)] = []


class Replay(BaseModel):
    """Sends again what is kept of the time from `since` on, which is in UTC where it has no zone."""

    model_config = ConfigDict(extra="forbid")

    since: datetime

    @field_validator("since")
    @classmethod
    def _has_a_zone(cls, since: datetime) -> datetime:
        return since if since.tzinfo else since.replace(tzinfo=UTC)


def new_secret() -> bytes:
    return secrets.token_bytes(32)


def shown_secret(secret: bytes) -> str:
    """Returns a secret as receivers configure it: `whsec_` and its base64."""
    return _PREFIX + base64.b64encode(secret).decode()


def event_body(type: EventType, at: datetime, data: dict[str, Any]) -> str:
    return orjson.dumps({"type": type, "timestamp": rfc3339(at), "data": data}).decode()


def signed_headers(secret: bytes, id: str, at: datetime, payload: str) -> dict[str, str]:
    """Returns the headers that prove who sent a payload, and when."""
    timestamp = str(int(at.timestamp()))
    digest = hmac.digest(secret, f"{id}.{timestamp}.{payload}".encode(), hashlib.sha256)
    return {
        "webhook-id": id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
