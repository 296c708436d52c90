"""The store writes each vote and its outbox row in one transaction (the transactional outbox), and turns.

A vote is one statement and one round trip, without explicit locks: it inserts the rows in `feedback` and
`outbox`, marks the older vote as superseded, and stores the response for its Idempotency-Key. The statement
supersedes only votes that its snapshot shows, and gets its transaction id after its snapshot, so in the log a
vote always precedes the event that supersedes it. Of two simultaneous votes for one slot, the unique index
`feedback_active` refuses the later, which is then retried and sees the earlier.

Authorisation is in `serving.vote_submission`, reading the log in `feedback.log`.
"""

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from copy import copy
from datetime import UTC, datetime
from typing import Any, Self

from psycopg import AsyncConnection
from psycopg.errors import ForeignKeyViolation, UniqueViolation
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from feedback.records import Found, IdempotencyKey, Learned, Received, Recorded
from feedback.turns import Turns
from feedback.votable_turn import VotableTurn
from schemas.database import AsyncPool
from schemas.errors import Conflict, NotFound
from schemas.feedback import Edit, FeedbackEvent, Ranking, Signal, Vote
from schemas.turns import Turn

LEARNED_AT_ONCE = 200
"""Rows of votes that a policy learned from that are read at once."""

# Each part reads from the one before it, which fixes their order: claim the key (when it is taken already,
# the other parts do nothing), supersede the older vote, insert the new one, append to the outbox. A vote that
# comes late supersedes only votes before its own time, and is superseded by the next after it. The events of
# a turn keep their order: its id is the key, in a column that held the conversation's, which clients name.
# What somebody said before they were erased is not recorded, nor what they or the project do not want kept.
_RECORD = """
with allowed as (
    select where not erased(%(project)s, %(rater)s, %(created_at)s)
        and may_store(%(project)s, %(rater)s, %(asked_by)s)
), remembered as (
    insert into idempotency (project, key_id, key, request_hash, response)
    select %(project)s, %(key_id)s, %(key)s, %(request_hash)s, %(response)s
    where %(key)s::text is not null and exists (select from allowed)
    on conflict do nothing
    returning 1
), first_time as (
    select 1 where %(key)s::text is null and exists (select from allowed)
    union all select 1 from remembered
), ended as (
    update feedback set superseded_by = %(id)s
    where turn_id = %(turn_id)s and rater = %(rater)s and slot = %(slot)s
        and superseded_by is null and retracted_at is null
        and (%(late)s::timestamptz is null or created_at <= %(late)s)
        and exists (select from first_time)
    returning id
), newer as (
    select id from feedback
    where turn_id = %(turn_id)s and rater = %(rater)s and slot = %(slot)s and created_at > %(late)s
    order by created_at limit 1
), vote as (
    insert into feedback (id, event_id, project, turn_id, choice, type, value, text, comment, rater, slot,
        created_at, superseded_by)
    select %(id)s, %(event_id)s, %(project)s, %(turn_id)s, %(choice)s, %(type)s, %(value)s, %(text)s,
        %(comment)s, %(rater)s, %(slot)s, %(created_at)s, (select id from newer)
    from first_time, (select count(*) from ended) as after_ended
    returning (select id from ended) as supersedes
)
insert into outbox (project, event_id, conversation_id, event)
select %(project)s, %(event_id)s, %(turn_id)s,
    %(event)s::jsonb || jsonb_build_object('supersedes', supersedes)
from vote
returning event ->> 'supersedes' as supersedes
"""

# The votes that it had superseded are retracted with it. A trigger describes a row without facets anew.
_RETRACT = """
with ended as (
    update feedback set retracted_at = %(created_at)s, text = null, comment = null, facets = null
    where id = %(id)s and superseded_by is null and retracted_at is null
    returning id, turn_id, rater, slot
), older as (
    update feedback set retracted_at = %(created_at)s, text = null, comment = null, facets = null
    from ended
    where feedback.turn_id = ended.turn_id and feedback.rater = ended.rater and feedback.slot = ended.slot
        and feedback.superseded_by is not null and feedback.retracted_at is null
)
insert into outbox (project, event_id, conversation_id, event)
select %(project)s, %(event_id)s, %(turn_id)s, %(event)s from ended
returning 1
"""

# What a judge found in the comments of a turn's retracted votes. It goes by a statement of its own: that of
# the retraction may have waited for a judge who had locked the vote, and does not see what came meanwhile.
_UNREAD = """
delete from comment_criteria c using feedback f
where f.turn_id = %s and f.retracted_at is not null and c.feedback_id = f.id
"""

_FIND = """
select f.id, f.project, f.turn_id as completion_id, f.choice, f.type, f.value, f.rater, f.created_at,
    f.superseded_by, t.rater as turn_rater,
    case when f.retracted_at is not null then 'retracted'
         when f.superseded_by is not null then 'superseded'
         else 'recorded' end as status,
    e.first_policy as policy, coalesce(p.live_at, p.inherited_at) as live_at
from feedback f
join turns t on t.id = f.turn_id
left join training_examples e on e.feedback_id = f.id
left join policies p on p.project = f.project and p.id = e.first_policy
where f.id = %s
"""


class Store:
    """The reads and writes of votes and turns. The caller owns `pool`."""

    def __init__(self, pool: AsyncPool) -> None:
        self._pool = pool
        self._turns = Turns(pool)
        self._connection: AsyncConnection[DictRow] | None = None

    @asynccontextmanager
    async def at_hand(self) -> AsyncIterator[Self]:
        """Yields the same store bound to one connection, for several calls in a row. Each call is still a
        transaction of its own."""
        async with self._autocommit() as connection:
            store = copy(self)
            store._connection = connection
            yield store

    async def record_turn(self, turn: Turn) -> None:
        """Store a turn with its replies; durable on return."""
        await self._turns.record(turn)

    async def votable_turn(self, completion_id: str) -> VotableTurn | None:
        """Returns the turn for validating a vote; None when it does not exist or was erased."""
        row = await self._row(
            "select id as completion_id, project, rater, key_id, origin,"
            " cardinality(prompt_token_ids) as prompt_tokens,"
            " array(select choice from replies where turn_id = turns.id order by choice) as choices"
            " from turns where id = %s",
            [completion_id],
        )
        return VotableTurn(**row) if row else None

    async def is_erased(self, project: str, rater: str, moment: datetime) -> bool:
        """Returns whether somebody was erased after `moment`."""
        row = await self._row("select erased(%s, %s, %s) as erased", [project, rater, moment])
        return row is not None and bool(row["erased"])

    async def may_store(self, project: str, rater: str, key_id: str) -> bool:
        """Returns whether a turn that this key asks may be stored for a person (`feedback.consent`)."""
        row = await self._row("select may_store(%s, %s, %s) as allowed", [project, rater, key_id])
        return row is not None and bool(row["allowed"])

    async def reply_text(self, completion_id: str, choice: int) -> str | None:
        """Returns the text of a stored reply."""
        row = await self._row(
            "select text from replies where turn_id = %s and choice = %s", [completion_id, choice]
        )
        return row["text"] if row else None

    async def submit(
        self,
        votable: VotableTurn,
        vote: Vote,
        rater: str,
        *,
        idempotency: IdempotencyKey | None = None,
        received: Received | None = None,
    ) -> Recorded:
        """Record a vote on a turn, superseding the rater's older vote in the same slot. `received` is given
        where the vote was acknowledged before.

        Returns only when the vote and its event are durable. With an `idempotency` key that was used before,
        returns the first response and writes nothing. Raises InvalidRequest (the vote does not fit the turn),
        Conflict (`idempotency_key_reused`; `not_stored` where who votes does not want it kept), NotFound (the
        turn, or who votes, was erased meanwhile).
        """
        votable.check(vote)
        received = received or Received.now()
        event = FeedbackEvent(
            event_id=f"ev_{uuid.uuid4().hex}",
            kind="recorded",
            feedback_id=received.id,
            project=votable.project,
            turn_id=votable.completion_id,
            choice=None if isinstance(vote, Ranking) else vote.choice,
            type=vote.type,
            value=vote.facts,
            created_at=received.at,
        )
        values = {
            "id": event.feedback_id,
            "event_id": event.event_id,
            "project": event.project,
            "turn_id": event.turn_id,
            "choice": event.choice,
            "type": event.type,
            "value": Jsonb(event.value),
            "text": vote.text if isinstance(vote, Edit) else None,
            "comment": None if isinstance(vote, Signal) else vote.comment,
            "rater": rater,
            "slot": vote.slot,
            "created_at": event.created_at,
            "late": event.created_at if received.late else None,
            "event": event.model_dump_json(),
            "key_id": idempotency.key_id if idempotency else None,
            "key": idempotency.key if idempotency else None,
            "request_hash": idempotency.request_hash if idempotency else None,
            # Who asked votes as they asked; of others only their own choice counts.
            "asked_by": votable.key_id if rater == votable.rater else None,
            "response": Jsonb({"id": event.feedback_id, "completion_id": event.turn_id}),
        }
        while True:
            try:
                row = await self._row(_RECORD, values)
                break
            except UniqueViolation as error:
                if error.diag.constraint_name == "feedback_pkey":  # its Idempotency-Key has expired since
                    return Recorded(event.feedback_id, event.turn_id, new=False)
                continue  # a simultaneous vote took the slot; the next snapshot shows it
            except ForeignKeyViolation:
                raise completion_not_found(votable.completion_id) from None
        if row is not None:
            return Recorded(event.feedback_id, event.turn_id, new=True, supersedes=row["supersedes"])
        if await self.is_erased(votable.project, rater, received.at):
            raise NotFound("Who cast this vote was erased meanwhile.", code="erased")
        first = await self._remembered(votable.project, idempotency) if idempotency else None
        if first is None:
            raise not_agreed()
        return Recorded(first["id"], first["completion_id"], new=False)

    async def claim(self, project: str, idempotency: IdempotencyKey) -> None:
        """Claim a key for a request that has no single response (a batch); claiming it again is allowed.
        Raises Conflict `idempotency_key_reused` when it was claimed for another request."""
        await self._row(
            "insert into idempotency (project, key_id, key, request_hash, response)"
            " values (%s, %s, %s, %s, '{}') on conflict do nothing returning 1",
            [project, *idempotency],
        )
        await self._remembered(project, idempotency)

    async def retract(self, found: Found) -> None:
        """Retract a vote and those that it had superseded, idempotently. Their rows stay as history, without
        what was written: edits and comments.

        Raises Conflict `superseded` when a newer vote has
        replaced it: that one is active.
        """
        event = FeedbackEvent(
            event_id=f"ev_{uuid.uuid4().hex}",
            kind="retracted",
            feedback_id=found.id,
            project=found.project,
            turn_id=found.completion_id,
            choice=found.choice,
            type=found.type,
            value=found.value,
            created_at=datetime.now(UTC),
        )
        values = {
            "id": found.id,
            "event_id": event.event_id,
            "project": found.project,
            "turn_id": found.completion_id,
            "created_at": event.created_at,
            "event": Jsonb(event.model_dump(mode="json")),
        }
        async with self._autocommit() as connection, connection.transaction():
            row = await (await connection.execute(_RETRACT, values)).fetchone()
            await connection.execute(_UNREAD, [found.completion_id])
        if row is None:
            now = await self.find(found.id)
            if now is not None and now.status == "superseded":
                raise Conflict(
                    f"A newer vote took its place; retract {now.superseded_by} instead.", code="superseded"
                )

    async def find(self, feedback_id: str) -> Found | None:
        """Returns a vote, its status, and the policy that first learned from it."""
        row = await self._row(_FIND, [feedback_id])
        return Found(**row) if row else None

    async def learned_by(self, project: str, policy: str) -> AsyncGenerator[Learned]:
        """Yields the votes that `policy` was the first to learn from, by time, by a server-side cursor."""
        async with (
            self._pool.connection() as connection,
            connection.transaction(),
            connection.cursor("learned") as cursor,
        ):
            cursor.itersize = LEARNED_AT_ONCE
            await cursor.execute(
                "select feedback_id, turn_id, rater from training_examples"
                " where project = %s and first_policy = %s"
                " order by created_at, feedback_id",
                [project, policy],
            )
            async for row in cursor:
                yield Learned(**row)

    async def _remembered(self, project: str, idempotency: IdempotencyKey) -> dict[str, str] | None:
        """Returns the first response to a request; None where it has none. Raises Conflict."""
        row = await self._row(
            "select request_hash, response from idempotency where project = %s and key_id = %s and key = %s",
            [project, idempotency.key_id, idempotency.key],
        )
        if row is None:
            return None
        if row["request_hash"] != idempotency.request_hash:
            raise Conflict(
                "This Idempotency-Key was used for another request; use a new one for each.",
                code="idempotency_key_reused",
            )
        response: dict[str, str] = row["response"]
        return response

    async def _row(self, sql: str, values: Sequence[Any] | Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns the first row of one statement, which is a transaction of its own and durable on return."""
        async with self._autocommit() as connection:
            return await (await connection.execute(sql, values)).fetchone()

    @asynccontextmanager
    async def _autocommit(self) -> AsyncIterator[AsyncConnection[DictRow]]:
        if self._connection is not None:
            yield self._connection
            return
        async with self._pool.connection() as connection:
            await connection.set_autocommit(True)
            try:
                yield connection
            finally:
                await connection.set_autocommit(False)


def completion_not_found(completion_id: str) -> NotFound:
    return NotFound(
        f"There is no stored completion {completion_id} to vote on.",
        code="completion_not_found",
        param="completion_id",
    )


def not_agreed() -> Conflict:
    """Returns the error for what is not stored, since its person or the project does not want it kept."""
    return Conflict(
        "This person's votes are not kept: they chose so, or have not agreed where the project asks for it.",
        code="not_stored",
    )


class TurnMissing(NotFound):
    """No turn has this id. It was erased, or has not been recorded yet."""

    def __init__(self, completion_id: str) -> None:
        error = completion_not_found(completion_id)
        super().__init__(error.message, code=error.code, param=error.param)
