"""What the service answers. These are plain dictionaries; a newer service may add fields to them."""

from typing import Any, Literal, TypedDict

Stage = Literal[
    "recorded", "training", "held_out", "learned", "awaiting_operator", "tried", "live", "taken_back",
    "superseded", "retracted",
]  # fmt: skip


class Recorded(TypedDict):
    """An acknowledged vote: `recorded` is durable; `spooled` waits on a disk while the database is away."""

    id: str
    completion_id: str
    status: Literal["recorded", "spooled"]


class Learned(TypedDict):
    """The policy that first learned from a vote, and since when that is live."""

    policy: str
    live_at: str | None


class Life(TypedDict):
    """What has become of a vote."""

    stage: Stage
    votes_needed: int | None
    progress: float | None
    live_at: str | None


class Retracted(TypedDict):
    """A vote that was taken back."""

    id: str
    completion_id: str
    status: Literal["retracted"]


class Vote(TypedDict):
    """A stored vote."""

    id: str
    completion_id: str
    choice: int | None
    type: Literal["thumb", "ranking", "edit", "signal"]
    status: Literal["recorded", "superseded", "retracted"]
    created_at: str
    superseded_by: str | None
    learned: Learned | None
    life: Life


class Session(TypedDict):
    """A signed token that says who uses a page."""

    token: str
    expires_at: str


class Turn(TypedDict):
    """A turn that Hearken did not write, on which people can vote. Where its person does not want it kept,
    there is no token."""

    completion_id: str
    conversation_id: str
    feedback_token: str | None


class Policy(TypedDict):
    """A policy. One alone also has its manifest and its lineage."""

    id: str
    parent: str | None
    state: str
    reason: str | None
    gate: dict[str, Any] | None
    created_at: str
    live_at: str | None


class Rollout(TypedDict):
    """A rollout: a canary, a duel, or one that made a policy live at once."""

    id: str
    policy: str
    replaces: str
    kind: Literal["direct", "canary", "duel"]
    share: float
    automatic: bool
    state: Literal["running", "promoted", "rolled_back", "ended"]
    reason: str | None
    started_at: str
    ended_at: str | None


class Webhook(TypedDict):
    """Where events are sent. It gets all events where `events` is empty."""

    id: str
    url: str
    events: list[str]
    created_at: str
    disabled_at: str | None
    failing_since: str | None
    delivered_at: str | None


class NewWebhook(TypedDict):
    """A new webhook, with the secret that signs what is sent. It is shown this once."""

    id: str
    url: str
    events: list[str]
    created_at: str
    secret: str


class Deleted(TypedDict):
    """What is gone."""

    id: str
    deleted: Literal[True]


class Enabled(TypedDict):
    """A webhook to which is sent again."""

    id: str
    disabled_at: None


class Replayed(TypedDict):
    """How many deliveries are sent again."""

    id: str
    replayed: int


class Delivery(TypedDict):
    """A delivery of a webhook, and what came of its last attempt."""

    id: str
    type: str
    state: Literal["waiting", "delivered", "failed"]
    attempts: int
    due_at: str | None
    delivered_at: str | None
    status: int | None
    error: str | None
