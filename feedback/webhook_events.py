"""Events become deliveries: one for each endpoint of the project that asks for their type, with up to a
hundred votes in each.

Several processes may write them at once; an event is locked by one and skipped by the others. Its deliveries
are written, and the event deleted, in one transaction.

Deliveries come in no certain order, so each says its event's number, `sequence`, and of votes in one delivery
each has its own. A number is drawn when a trigger fires, while it holds the lock of the row that has changed:
so of two events about the same row the later one has the higher number, which times of transactions do not
tell.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from feedback.webhooks import delivery_id
from schemas.database import AsyncPool
from schemas.webhooks import EventType, event_body

Connection = AsyncConnection[DictRow]

BATCH = 500
"""Events that one transaction takes."""

VOTES = 100
"""Votes of one delivery."""

PAGES = 20
"""Deliveries with votes of a policy that one transaction writes."""

_TAKE: LiteralString = """
select id, project, type, data, policy, votes_after, created_at from webhook_events
order by id limit %s for update skip locked
"""
_ENDPOINTS: LiteralString = """
select id, project, types from webhook_endpoints where project = any(%s) and disabled_at is null
for key share
"""
_VOTES_OF: LiteralString = """
select feedback_id as id, turn_id as completion_id, choice, type from training_examples
where project = %s and first_policy = %s and feedback_id > %s and superseded_by is null
order by feedback_id limit %s
"""
_WRITE: LiteralString = """
insert into webhook_deliveries (id, project, endpoint, type, payload, due_at)
select id, project, endpoint, type, payload, now()
from unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[])
    as written (id, project, endpoint, type, payload)
"""
# Locked in the order of their ids: of two processes that wake the same endpoints, one waits for the other.
_WAKE: LiteralString = """
with asleep as (
    select id from webhook_endpoints where id = any(%s) and due_at is null order by id for no key update
)
update webhook_endpoints set due_at = now() from asleep where webhook_endpoints.id = asleep.id
"""


class _Message(NamedTuple):
    project: str
    type: EventType
    at: datetime
    data: dict[str, Any]


async def write_deliveries(pool: AsyncPool) -> bool:
    """Writes the deliveries of the oldest events; returns whether there may be more."""
    async with pool.connection() as connection, connection.transaction():
        events = await (await connection.execute(_TAKE, [BATCH])).fetchall()
        if not events:
            return False
        messages = list(_messages(each for each in events if each["policy"] is None))
        done = [each["id"] for each in events if each["policy"] is None]
        for event in (each for each in events if each["policy"] is not None):
            pages, last = await _votes_of(connection, event)
            messages += pages
            if last is None:
                done.append(event["id"])
            else:
                await connection.execute(
                    "update webhook_events set votes_after = %s where id = %s", [last, event["id"]]
                )
        await _write(connection, messages)
        await connection.execute("delete from webhook_events where id = any(%s)", [done])
    return len(events) == BATCH or len(done) < len(events)


def _messages(events: Iterable[DictRow]) -> Iterator[_Message]:
    """Yields what is sent for events; those of votes are put together."""
    votes: dict[tuple[str, EventType], list[DictRow]] = {}
    for event in events:
        project, type = event["project"], event["type"]
        if type.startswith("vote."):
            votes.setdefault((project, type), []).append(event)
        else:
            yield _Message(project, type, event["created_at"], _numbered(event["data"], event))
    for (project, type), found in votes.items():
        for page in _pages(found):
            data = {"votes": [_numbered(event["data"], event) for event in page]}
            yield _Message(project, type, page[-1]["created_at"], data)


async def _votes_of(connection: Connection, event: DictRow) -> tuple[list[_Message], str | None]:
    """Returns pages of the votes that the event's policy was the first to learn from, and the last vote's id
    where more may follow."""
    found = await (
        await connection.execute(
            _VOTES_OF, [event["project"], event["policy"], event["votes_after"], PAGES * VOTES]
        )
    ).fetchall()
    about = _numbered(event["data"], event)
    pages = [
        _Message(
            event["project"], event["type"], event["created_at"],
            {**about, "votes": [_numbered(vote, event) for vote in page]},
        )
        for page in _pages(found)
    ]  # fmt: skip
    return pages, found[-1]["id"] if len(found) == PAGES * VOTES else None


async def _write(connection: Connection, messages: list[_Message]) -> None:
    projects = list({message.project for message in messages})
    endpoints = await (await connection.execute(_ENDPOINTS, [projects])).fetchall()
    rows = []
    for project, type, at, data in messages:
        body = event_body(type, at, data)
        for endpoint in endpoints:
            if endpoint["project"] == project and (not endpoint["types"] or type in endpoint["types"]):
                rows.append((delivery_id(at), project, endpoint["id"], type, body))
    if rows:
        await connection.execute(_WRITE, [list(column) for column in zip(*rows, strict=True)])
        await connection.execute(_WAKE, [list({row[2] for row in rows})])


def _numbered(said: dict[str, Any], event: DictRow) -> dict[str, Any]:
    return {**said, "sequence": event["id"]}


def _pages(rows: Sequence[DictRow]) -> Iterator[list[DictRow]]:
    for start in range(0, len(rows), VOTES):
        yield list(rows[start : start + VOTES])
