"""Each function here describes one request; both clients send it."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar, cast
from urllib.parse import quote

from hearken_client.types import (
    Deleted,
    Delivery,
    Enabled,
    NewWebhook,
    Policy,
    Recorded,
    Replayed,
    Retracted,
    Rollout,
    Session,
    Turn,
    Vote,
    Webhook,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request whose answer is a T: the body, or its field `within`. One that is `safe` may be sent again
    when no answer came."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    body: dict[str, Any] | None = None
    query: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    within: str | None = None
    safe: bool = False

    def answer(self, body: Any) -> T:
        return cast(T, body if self.within is None else body[self.within])


def thumb(
    completion_id: str,
    value: Literal["up", "down"],
    *,
    choice: int = 0,
    reasons: Sequence[str] = (),
    comment: str | None = None,
    user: str | None = None,
    feedback_token: str | None = None,
    idempotency_key: str | None = None,
) -> Call[Recorded]:
    """Says that a reply was good, or not. `reasons` are slugs such as `concise`."""
    said = {"type": "thumb", "choice": choice, "value": value, "reasons": list(reasons), "comment": comment}
    return _vote(completion_id, said, user, feedback_token, idempotency_key)


def rank(
    completion_id: str,
    ranking: Sequence[Sequence[int]],
    *,
    acceptable: bool = True,
    shown: Sequence[int] | None = None,
    reasons: Sequence[str] = (),
    comment: str | None = None,
    user: str | None = None,
    feedback_token: str | None = None,
    idempotency_key: str | None = None,
) -> Call[Recorded]:
    """Ranks replies: groups of choices, best first, ties together. Not `acceptable`: none was good. `shown`
    is the order in which they were seen. `reasons` are slugs: why the best is better, or what is wrong with
    all of them where none was good."""
    said = {
        "type": "ranking",
        "ranking": [list(group) for group in ranking],
        "acceptable": acceptable,
        "shown": None if shown is None else list(shown),
        "reasons": list(reasons) or None,
        "comment": comment,
    }
    return _vote(completion_id, said, user, feedback_token, idempotency_key)


def edit(
    completion_id: str,
    text: str,
    *,
    choice: int = 0,
    comment: str | None = None,
    user: str | None = None,
    feedback_token: str | None = None,
    idempotency_key: str | None = None,
) -> Call[Recorded]:
    """Says what a reply should have been."""
    said = {"type": "edit", "choice": choice, "text": text, "comment": comment}
    return _vote(completion_id, said, user, feedback_token, idempotency_key)


def signal(
    completion_id: str,
    signal: Literal["regenerated", "copied", "shared", "abandoned"],
    *,
    choice: int = 0,
    user: str | None = None,
    feedback_token: str | None = None,
    idempotency_key: str | None = None,
) -> Call[Recorded]:
    """Says what a person did with a reply."""
    said = {"type": "signal", "choice": choice, "signal": signal}
    return _vote(completion_id, said, user, feedback_token, idempotency_key)


def get_vote(vote_id: str, *, feedback_token: str | None = None) -> Call[Vote]:
    """Returns a vote, and what has become of it."""
    return Call("GET", f"/v1/feedback/{_part(vote_id)}", headers=_token(feedback_token), safe=True)


def retract(vote_id: str, *, feedback_token: str | None = None) -> Call[Retracted]:
    """Takes a vote back."""
    return Call("DELETE", f"/v1/feedback/{_part(vote_id)}", headers=_token(feedback_token), safe=True)


def create_session(*, user: str | None = None) -> Call[Session]:
    """Returns a token for a page: of `user`, with a secret key; of somebody new, with a publishable one."""
    return Call("POST", "/v1/sessions", _given(user=user))


def record_turn(
    messages: Sequence[dict[str, Any]],
    replies: Sequence[str],
    *,
    user: str | None = None,
    metadata: dict[str, str] | None = None,
) -> Call[Turn]:
    """Records a prompt and replies that Hearken did not write, so that people can vote on them."""
    said = _given(messages=list(messages), replies=list(replies), user=user, metadata=metadata)
    return Call("POST", "/v1/turns", said)


def list_policies(*, limit: int = 100) -> Call[list[Policy]]:
    """Returns the policies, newest first."""
    return Call("GET", "/v1/policies", query={"limit": limit}, within="data", safe=True)


def get_policy(policy: str) -> Call[Policy]:
    """Returns a policy with its manifest, lineage and gate report."""
    return Call("GET", f"/v1/policies/{_part(policy)}", safe=True)


def promote_policy(policy: str, *, reason: str | None = None) -> Call[Policy]:
    """Makes a policy live for everybody, once every engine has proved it. One that was rolled back needs a
    reason."""
    return Call("POST", f"/v1/policies/{_part(policy)}/promote", _given(reason=reason))


def roll_back_policy(policy: str, *, reason: str | None = None) -> Call[Policy]:
    """Takes the live policy or the canary back."""
    return Call("POST", f"/v1/policies/{_part(policy)}/rollback", _given(reason=reason))


def reinstate_policy(policy: str, *, reason: str | None = None) -> Call[Policy]:
    """Takes back that a policy was rejected or rolled back."""
    return Call("POST", f"/v1/policies/{_part(policy)}/reinstate", _given(reason=reason))


def list_rollouts(*, limit: int = 100) -> Call[list[Rollout]]:
    """Returns the rollouts, newest first."""
    return Call("GET", "/v1/rollouts", query={"limit": limit}, within="data", safe=True)


def start_rollout(
    policy: str, share: float | None = None, *, mode: Literal["canary", "duel"] | None = None
) -> Call[Rollout]:
    """Lets a policy answer some of the people, in a duel one reply of some pairs; as the project's rollouts
    are without a `mode`. Without a share, people's votes decide."""
    return Call("POST", "/v1/rollouts", _given(policy=policy, share=share, mode=mode))


def promote_rollout(rollout: str, *, reason: str | None = None) -> Call[Rollout]:
    """Makes the policy of a running trial live."""
    return Call("POST", f"/v1/rollouts/{_part(rollout)}/promote", _given(reason=reason))


def roll_back_rollout(rollout: str, *, reason: str | None = None) -> Call[Rollout]:
    """Takes the policy of a rollout back."""
    return Call("POST", f"/v1/rollouts/{_part(rollout)}/rollback", _given(reason=reason))


def list_webhooks() -> Call[list[Webhook]]:
    """Returns where events are sent."""
    return Call("GET", "/v1/webhooks", within="data", safe=True)


def create_webhook(url: str, *, events: Sequence[str] = ()) -> Call[NewWebhook]:
    """Sends events to `url` from now on: those of the types in `events`, or all."""
    return Call("POST", "/v1/webhooks", {"url": url, "events": list(events)})


def delete_webhook(webhook: str) -> Call[Deleted]:
    """Sends nothing more to a webhook."""
    return Call("DELETE", f"/v1/webhooks/{_part(webhook)}", safe=True)


def enable_webhook(webhook: str) -> Call[Enabled]:
    """Sends to a webhook again that had failed for too long."""
    return Call("POST", f"/v1/webhooks/{_part(webhook)}/enable", safe=True)


def replay_webhook(webhook: str, since: datetime) -> Call[Replayed]:
    """Sends all events since a time again, under the same ids."""
    return Call("POST", f"/v1/webhooks/{_part(webhook)}/replay", {"since": since.isoformat()}, safe=True)


def list_deliveries(webhook: str, *, limit: int = 100, before: str | None = None) -> Call[list[Delivery]]:
    """Returns the deliveries of a webhook, newest first, from before the one with the id `before`."""
    query = _given(limit=limit, before=before)
    return Call("GET", f"/v1/webhooks/{_part(webhook)}/deliveries", query=query, within="data", safe=True)


def _vote(
    completion_id: str,
    said: dict[str, Any],
    user: str | None,
    feedback_token: str | None,
    idempotency_key: str | None,
) -> Call[Recorded]:
    body = _given(completion_id=completion_id, user=user, feedback_token=feedback_token, **said)
    key = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
    return Call("POST", "/v1/feedback", body, headers=key, safe=True)


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _token(feedback_token: str | None) -> dict[str, str]:
    return {} if feedback_token is None else {"X-Feedback-Token": feedback_token}


def _part(id: str) -> str:
    return quote(id, safe="")
