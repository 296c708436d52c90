"""A vote is submitted once its caller may cast it, and is acknowledged only when it is durable.

An admin or secret key may vote on any turn of its project, also in the name of another `user`. A publishable
key, or no key, needs the completion's own `feedback_token`, and votes as the person who was answered.

While Postgres is away, a vote waits in this replica's spool (`feedback.spool`) under the id that it gets, and
is stored later, in its order, unless it does not fit its turn.

An `Idempotency-Key` belongs to the API key that sent it (without one, or with a page's publishable key, which
all of its visitors share: to the completion) and stores the first success: the same request again gets the
same answer, another request 409; after an error the key is free.
"""

import hashlib
import json
from datetime import datetime
from typing import Any

from feedback.records import IdempotencyKey, Received, Recorded
from feedback.spool import Entry
from feedback.store import Store, TurnMissing, completion_not_found
from feedback.votable_turn import VotableTurn, check_edit
from schemas.errors import Conflict, Forbidden, InvalidRequest, Unauthorized, Unavailable
from schemas.feedback import Edit, Vote, parse_vote
from schemas.turns import is_fresh
from serving.auth import charge_network
from serving.completion import UNSTORED_PREFIX
from serving.keys import Caller
from serving.services import Services
from serving.token_signer import TokenSigner

MAX_KEY_LENGTH = 255
"""Characters of an Idempotency-Key."""

FRESH_SECONDS = 60.0
"""Age of a reply up to which it may still wait in another replica's spool."""


async def submit_vote(
    services: Services, caller: Caller | None, vote: Vote, idempotency_key: str | None = None
) -> dict[str, str]:
    """Records a vote and returns `{"id", "completion_id", "status"}` once it is durable. Raises Unauthorized,
    Forbidden, NotFound, Conflict (`not_stored`, `idempotency_key_reused`) or InvalidRequest, and then nothing
    has changed."""
    return await submit_checked(services, caller, vote, checked_key(idempotency_key))


async def submit_checked(
    services: Services, caller: Caller | None, vote: Vote, key: str | None
) -> dict[str, str]:
    """Records a vote as `submit_vote`, with an Idempotency-Key that was checked or made here."""
    with services.metrics.vote():
        recorded = await _record(services, caller, vote, key)
    if recorded.new:
        services.metrics.feedback.labels(vote.type).inc()
    status = "spooled" if recorded.spooled else "recorded"
    return {"id": recorded.id, "completion_id": recorded.completion_id, "status": status}


async def _record(services: Services, caller: Caller | None, vote: Vote, key: str | None) -> Recorded:
    if vote.completion_id.startswith(UNSTORED_PREFIX):
        raise Conflict(
            "This reply was not stored (`store: false`), so it cannot be voted on.", code="not_stored"
        )
    if caller is None and vote.feedback_token is None:
        raise Unauthorized("Send a key, or the feedback_token that came with the completion.")
    vote = await services.redaction.vote(caller.project if caller else None, vote)
    received = _received(caller, vote, key)

    async def store() -> Recorded:
        try:
            return await _store_vote(services, caller, vote, key, received)
        except TurnMissing:
            if services.spool.recovering or is_fresh(vote.completion_id, FRESH_SECONDS):
                raise not_yet() from None
            raise

    def entry() -> Entry:
        _authorise(services.signer, caller, vote)
        return {
            "kind": "vote",
            "id": received.id,
            "at": received.at.isoformat(),
            "caller": caller.identity() if caller else None,
            "vote": vote.model_dump(mode="json"),
            "key": key,
        }

    recorded = await services.spool.write(store, entry)
    return recorded or Recorded(received.id, vote.completion_id, new=False, spooled=True)


def not_yet() -> Unavailable:
    """Returns the error for what another replica's spool may still hold."""
    message = "This is not recorded yet, or does not exist; try again soon."
    return Unavailable(message, code="not_recorded_yet", retry_after=2)


def _received(caller: Caller | None, vote: Vote, key: str | None) -> Received:
    """Returns the vote's id and time. With an Idempotency-Key, the id follows from the request, so that a
    retry gets the same one from another replica, too, while Postgres is away."""
    if key is None:
        return Received.now()
    owner = vote.completion_id if caller is None or caller.kind == "publishable" else caller.key_id
    return Received.now(owner, key, digest(vote.model_dump(mode="json")).hex())


async def store_spooled_vote(services: Services, entry: Entry) -> None:
    """Stores a vote that waited in the spool. Raises RequestError where it does not fit its turn, TurnMissing
    where there is none."""
    received = Received(entry["id"], datetime.fromisoformat(entry["at"]), late=True)
    if await services.store.find(received.id) is not None:
        return  # the process died after it had stored the vote
    caller = Caller(**entry["caller"]) if entry["caller"] else None
    vote = parse_vote(entry["vote"])
    recorded = await _store_vote(services, caller, vote, entry["key"], received)
    if recorded.new:
        services.metrics.feedback.labels(vote.type).inc()


async def _store_vote(
    services: Services, caller: Caller | None, vote: Vote, key: str | None, received: Received
) -> Recorded:
    async with services.store.at_hand() as store:
        return await _store_at_hand(services, store, caller, vote, key, received)


async def _store_at_hand(
    services: Services, store: Store, caller: Caller | None, vote: Vote, key: str | None, received: Received
) -> Recorded:
    votable = await store.votable_turn(vote.completion_id)
    if votable is None:
        raise TurnMissing(vote.completion_id)
    if caller is not None and caller.project != votable.project:
        raise completion_not_found(vote.completion_id)
    rater = _rater(services.signer, caller, vote, votable)
    if votable.origin is not None and rater == votable.rater and not received.late:
        charge_network(services, votable.origin)
    if isinstance(vote, Edit):
        original = await store.reply_text(vote.completion_id, vote.choice)
        check_edit(
            vote,
            original,
            votable,
            context=services.fleet.context,
            most_bytes=services.settings.serving.max_body_bytes,
        )
    idempotency = None if key is None else _idempotency(caller, votable, key, vote.model_dump(mode="json"))
    recorded = await store.submit(votable, vote, rater, idempotency=idempotency, received=received)
    services.tastes.voted(votable.project, rater)
    return recorded


def _rater(signer: TokenSigner, caller: Caller | None, vote: Vote, votable: VotableTurn) -> str:
    """Returns the pseudonym of the vote's author. Raises Forbidden when the caller may not vote for them."""
    _authorise(signer, caller, vote)
    if vote.user is None or caller is None:
        return votable.rater
    return signer.rater_id(votable.project, vote.user, caller.kind)


def _authorise(signer: TokenSigner, caller: Caller | None, vote: Vote) -> None:
    """Raises Forbidden for a vote without a server's key that has no token, or names a user."""
    if caller is not None and caller.kind != "publishable":
        return
    check_token(signer, vote.completion_id, vote.feedback_token)
    if vote.user is not None:
        raise Forbidden("Only a secret key may vote for a user that it names.", code="user_not_allowed")


def check_token(signer: TokenSigner, completion_id: str, token: str | None) -> None:
    """Raises Forbidden unless the token is the completion's own."""
    if token is None or not signer.verify(completion_id, token):
        raise Forbidden(
            "Send the feedback_token that came with this completion.", code="invalid_feedback_token"
        )


def checked_key(key: str | None) -> str | None:
    """Returns an Idempotency-Key. Raises InvalidRequest for one that is none."""
    if key is not None and not (0 < len(key) <= MAX_KEY_LENGTH and key.isascii() and key.isprintable()):
        raise InvalidRequest(
            f"An Idempotency-Key has 1 to {MAX_KEY_LENGTH} printable ASCII characters; use a random UUID.",
            code="invalid_idempotency_key",
        )
    return key


def _idempotency(caller: Caller | None, votable: VotableTurn, key: str, body: Any) -> IdempotencyKey:
    if caller is None or caller.kind == "publishable":
        return IdempotencyKey(votable.key_id, f"{votable.completion_id}\n{key}", digest(body))
    return IdempotencyKey(caller.key_id, key, digest(body))


def digest(body: Any) -> bytes:
    """Returns the digest of a request's body, by which a retry is known."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest()
