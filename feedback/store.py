"""Votes in Postgres, each written in one transaction, and the turns that they are about.

A vote is one statement: its row in `feedback` and in `outbox`, the end of the vote that it supersedes and
the answer to its Idempotency-Key stand or fall together, in one round trip and without holding a lock. The
statement can end only votes that its snapshot shows, and gets its transaction id after its snapshot, so in
the log a vote always stands before what ends it. Of two votes for one slot at once, the unique index
`feedback_active` stops the later, which is then sent again and sees the earlier.

Leaves out who may vote (`serving.votes`) and reading the log (`feedback.log`).
"""

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from copy import copy
from datetime import UTC, datetime
from typing import Any, Self

from psycopg import AsyncConnection
from psycopg.errors import ForeignKeyViolation, UniqueViolation
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from feedback.ballot import Ballot
from feedback.records import Found, IdempotencyKey, Learned, Recorded
from feedback.turns import Turns
from schemas.database import AsyncPool
from schemas.errors import Conflict, NotFound
from schemas.feedback import Edit, FeedbackEvent, Ranking, Signal, Vote
from schemas.turns import Turn

# Each part reads from the one before it, which fixes their order: the key is taken (or, when it is known
# already, everything after it finds nothing to do), the older vote ends, the new one stands, the log hears.
_RECORD = """
with remembered as (
    insert into idempotency (project, key_id, key, request_hash, response)
    select %(project)s, %(key_id)s, %(key)s, %(request_hash)s, %(response)s where %(key)s::text is not null
    on conflict do nothing
    returning 1
), first_time as (
    select 1 where %(key)s::text is null union all select 1 from remembered
), ended as (
    update feedback set superseded_by = %(id)s
    where turn_id = %(turn_id)s and rater = %(rater)s and slot = %(slot)s
        and superseded_by is null and retracted_at is null
        and exists (select from first_time)
    returning id
), vote as (
    insert into feedback
        (id, event_id, project, turn_id, choice, type, value, text, comment, rater, slot, created_at)
    select %(id)s, %(event_id)s, %(project)s, %(turn_id)s, %(choice)s, %(type)s, %(value)s, %(text)s,
        %(comment)s, %(rater)s, %(slot)s, %(created_at)s
    from first_time, (select count(*) from ended) as after_ended
    returning (select id from ended) as supersedes
)
insert into outbox (project, event_id, conversation_id, event)
select %(project)s, %(event_id)s, %(conversation_id)s,
    %(event)s::jsonb || jsonb_build_object('supersedes', supersedes)
from vote
returning event ->> 'supersedes' as supersedes
"""

_RETRACT = """
with ended as (
    update feedback set retracted_at = %(created_at)s
    where id = %(id)s and superseded_by is null and retracted_at is null
    returning id
)
insert into outbox (project, event_id, conversation_id, event)
select %(project)s, %(event_id)s, %(conversation_id)s, %(event)s from ended
returning 1
"""

_FIND = """
select f.id, f.project, f.turn_id as completion_id, f.choice, f.type, f.value, f.rater, f.created_at,
    f.superseded_by, t.conversation_id, t.rater as turn_rater,
    case when f.retracted_at is not null then 'retracted'
         when f.superseded_by is not null then 'superseded'
         else 'recorded' end as status,
    e.first_policy as policy, p.live_at
from feedback f
join turns t on t.id = f.turn_id
left join training_examples e on e.feedback_id = f.id
left join policies p on p.project = f.project and p.id = e.first_policy
where f.id = %s
"""


class Store:
    """What serving writes down. Shares `pool` with whoever opened it."""

    def __init__(self, pool: AsyncPool) -> None:
        self._pool = pool
        self._turns = Turns(pool)
        self._connection: AsyncConnection[DictRow] | None = None

    @asynccontextmanager
    async def at_hand(self) -> AsyncIterator[Self]:
        """The same store with a connection in its hand, for who asks it several things in a row. Each is
        still a transaction of its own."""
        async with self._autocommit() as connection:
            store = copy(self)
            store._connection = connection
            yield store

    async def record_turn(self, turn: Turn) -> None:
        """Keep a turn with its replies; durable on return."""
        await self._turns.record(turn)

    async def ballot(self, completion_id: str) -> Ballot | None:
        """The turn as a vote sees it; None when there is none (any more)."""
        row = await self._row(
            "select id as completion_id, project, conversation_id, rater, key_id,"
            " cardinality(prompt_token_ids) as prompt_tokens,"
            " array(select choice from replies where turn_id = turns.id order by choice) as choices"
            " from turns where id = %s",
            [completion_id],
        )
        return Ballot(**row) if row else None

    async def reply_text(self, completion_id: str, choice: int) -> str | None:
        """What a stored reply says."""
        row = await self._row(
            "select text from replies where turn_id = %s and choice = %s", [completion_id, choice]
        )
        return row["text"] if row else None

    async def submit(
        self, ballot: Ballot, vote: Vote, rater: str, *, idempotency: IdempotencyKey | None = None
    ) -> Recorded:
        """Record a vote that fits its ballot, ending the rater's older vote in the same slot.

        Returns only when the vote and its event are durable. With an `idempotency` key that was used
        before, the first answer comes back and nothing is written. Raises InvalidRequest (the vote is not
        about this turn), Conflict `idempotency_key_reused`, NotFound (the turn was erased meanwhile).
        """
        ballot.check(vote)
        event = FeedbackEvent(
            event_id=f"ev_{uuid.uuid4().hex}",
            kind="recorded",
            feedback_id=f"fb_{uuid.uuid4().hex}",
            project=ballot.project,
            turn_id=ballot.completion_id,
            conversation_id=ballot.conversation_id,
            choice=None if isinstance(vote, Ranking) else vote.choice,
            type=vote.type,
            value=vote.facts,
            rater=rater,
            created_at=datetime.now(UTC),
        )
        values = {
            "id": event.feedback_id,
            "event_id": event.event_id,
            "project": event.project,
            "turn_id": event.turn_id,
            "conversation_id": event.conversation_id,
            "choice": event.choice,
            "type": event.type,
            "value": Jsonb(event.value),
            "text": vote.text if isinstance(vote, Edit) else None,
            "comment": None if isinstance(vote, Signal) else vote.comment,
            "rater": rater,
            "slot": vote.slot,
            "created_at": event.created_at,
            "event": event.model_dump_json(),
            "key_id": idempotency.key_id if idempotency else None,
            "key": idempotency.key if idempotency else None,
            "request_hash": idempotency.request_hash if idempotency else None,
            "response": Jsonb({"id": event.feedback_id, "completion_id": event.turn_id}),
        }
        while True:
            try:
                row = await self._row(_RECORD, values)
                break
            except UniqueViolation:
                continue  # somebody voted for the same slot at the same moment, and now it is there to see
            except ForeignKeyViolation:
                raise completion_not_found(ballot.completion_id) from None
        if row is not None:
            return Recorded(event.feedback_id, event.turn_id, new=True, supersedes=row["supersedes"])
        assert idempotency is not None  # noqa: S101 - only a key that was used before stops a vote
        return Recorded(**await self._remembered(ballot.project, idempotency), new=False)

    async def claim(self, project: str, idempotency: IdempotencyKey) -> None:
        """Take a key for a request that has no single answer (a batch); taking it again is fine.
        Raises Conflict `idempotency_key_reused` when it was taken for another request."""
        await self._row(
            "insert into idempotency (project, key_id, key, request_hash, response)"
            " values (%s, %s, %s, %s, '{}') on conflict do nothing returning 1",
            [project, *idempotency],
        )
        await self._remembered(project, idempotency)

    async def retract(self, found: Found) -> None:
        """Take a vote back; it stays as history. Retracting twice is retracting once.

        The vote that it had superseded does not come back. Raises Conflict `superseded` when a newer vote
        took its place: that one is what stands.
        """
        event = FeedbackEvent(
            event_id=f"ev_{uuid.uuid4().hex}",
            kind="retracted",
            feedback_id=found.id,
            project=found.project,
            turn_id=found.completion_id,
            conversation_id=found.conversation_id,
            choice=found.choice,
            type=found.type,
            value=found.value,
            rater=found.rater,
            created_at=datetime.now(UTC),
        )
        row = await self._row(
            _RETRACT,
            {
                "id": found.id,
                "event_id": event.event_id,
                "project": found.project,
                "turn_id": found.completion_id,
                "conversation_id": found.conversation_id,
                "created_at": event.created_at,
                "event": Jsonb(event.model_dump(mode="json")),
            },
        )
        if row is None:
            now = await self.find(found.id)
            if now is not None and now.status == "superseded":
                raise Conflict(
                    f"A newer vote took its place; retract {now.superseded_by} instead.", code="superseded"
                )

    async def find(self, feedback_id: str) -> Found | None:
        """A vote, whether it still stands, and what learned from it."""
        row = await self._row(_FIND, [feedback_id])
        return Found(**row) if row else None

    async def learned_by(self, project: str, policy: str) -> list[Learned]:
        """The votes that `policy` was the first to learn from."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "select feedback_id, turn_id, rater from training_examples"
                " where project = %s and first_policy = %s"
                " order by created_at, feedback_id",
                [project, policy],
            )
            return [Learned(**row) for row in await cursor.fetchall()]

    async def _remembered(self, project: str, idempotency: IdempotencyKey) -> dict[str, str]:
        row = await self._row(
            "select request_hash, response from idempotency where project = %s and key_id = %s and key = %s",
            [project, idempotency.key_id, idempotency.key],
        )
        if row is None or row["request_hash"] != idempotency.request_hash:
            raise Conflict(
                "This Idempotency-Key was used for another request; use a new one for each.",
                code="idempotency_key_reused",
            )
        response: dict[str, str] = row["response"]
        return response

    async def _row(self, sql: str, values: Sequence[Any] | Mapping[str, Any]) -> dict[str, Any] | None:
        """The first row of one statement, which is a transaction of its own and durable on return."""
        if self._connection is not None:
            return await (await self._connection.execute(sql, values)).fetchone()
        async with self._autocommit() as connection:
            return await (await connection.execute(sql, values)).fetchone()

    @asynccontextmanager
    async def _autocommit(self) -> AsyncIterator[AsyncConnection[DictRow]]:
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
