"""The feedback desk reads votes with what they were said of, newest first, and the conversations around
them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from feedback.vote_filter import Filter

Connection = AsyncConnection[DictRow]

MOST_COUNTED = 10_000
"""Votes up to which a filter's votes are counted."""

MOST_OF_POLICY = 1_000
"""Newest turns of a policy among which a page of them is looked for."""

MOST_TURNS = 100
"""Newest turns of a conversation that are read."""

# What became of a vote: whether the last round held it out, the policy that first learned from it, and since
# when that one is live; whether its rater is in quarantine.
_ABOUT: LiteralString = """
select f.id, f.event_id, f.turn_id as completion_id, f.choice, f.type, f.value, f.policy, f.rater as "user",
    f.created_at, f.superseded_by, f.retracted_at, f.comment, f.text as edit, t.conversation_id,
    t.metadata - 'conversation_id' as metadata, message_text(t.messages -> -1) as prompt, said.replies,
    e.first_policy as learned_by, coalesce(p.live_at, p.inherited_at) as live_at, p.state as learned_state,
    coalesce(e.held_out_in = (
        select id from rounds where project = f.project order by started_at desc limit 1
    ), false) as held_out,
    exists (
        select from quarantine q where q.project = f.project and q.rater = f.rater and q.state <> 'accepted'
    ) as quarantined
from found f
join turns t on t.id = f.turn_id
left join lateral (
    select jsonb_agg(jsonb_build_object('choice', choice, 'policy', policy, 'text', text) order by choice)
        as replies from replies where turn_id = f.turn_id
) as said on true
left join training_examples e on e.feedback_id = f.id
left join policies p on p.project = f.project and p.id = e.first_policy
order by f.created_at desc, f.id desc
"""
_COUNT: LiteralString = """
select count(*) as votes from (select from feedback f where {where} limit %(most)s) as counted
"""
_FOUND: LiteralString = "with found as materialized (select * from feedback f where "
_NEWEST: LiteralString = """
    and (%(before)s::timestamptz is null or (f.created_at, f.id) < (%(before)s, %(before_id)s))
    order by f.created_at desc, f.id desc limit %(limit)s
)
"""
_TURNS: LiteralString = """
select t.id, t.conversation_id, t.rater as "user", t.created_at, t.metadata - 'conversation_id' as metadata,
    message_text(t.messages -> -1) as prompt, jsonb_array_length(t.messages) as messages, (
        select jsonb_agg(jsonb_build_object('choice', choice, 'policy', policy, 'text', text,
            'propensity', propensity) order by choice) from replies where turn_id = t.id
    ) as replies, (
        select coalesce(jsonb_agg(jsonb_build_object('id', id, 'type', type, 'choice', choice, 'value', value,
            'comment', comment) order by created_at), '[]')
        from feedback where turn_id = t.id and superseded_by is null and retracted_at is null
    ) as votes
from turns t where t.project = %(project)s
"""

# The newest turns with a reply of a policy. An id begins with the time at which its reply began.
_OF_POLICY: LiteralString = """
    select turn_id from replies where project = %(project)s and policy = %(policy)s
        and (%(since)s::timestamptz is null or turn_id >= turn_bound(%(since)s - interval '1 hour'))
        and (%(latest)s::timestamptz is null or turn_id <= turn_bound(%(latest)s))
    order by turn_id desc limit %(most)s
"""


async def votes(
    connection: Connection, project: str, only: Filter, before: tuple[datetime, str] | None = None
) -> list[DictRow]:
    """Returns the newest votes that the filter selects, at most `only.limit`, from before the vote with this
    time and id."""
    moment, id = before or (None, None)
    values = {**only.values(project), "before": moment, "before_id": id, "limit": only.limit}
    return await _rows(connection, _FOUND + only.where(project) + _NEWEST + _ABOUT, values)


async def votes_by_event(connection: Connection, project: str, events: Sequence[str]) -> list[DictRow]:
    """Returns the votes with these event ids."""
    found = _FOUND + "f.project = %(project)s and f.event_id = any(%(events)s))" + _ABOUT
    return await _rows(connection, found, {"project": project, "events": list(events)})


async def vote(connection: Connection, project: str, id: str) -> DictRow | None:
    """Returns one vote."""
    found = _FOUND + "f.project = %(project)s and f.id = %(id)s)" + _ABOUT
    rows = await _rows(connection, found, {"project": project, "id": id})
    return rows[0] if rows else None


async def count(connection: Connection, project: str, only: Filter) -> int:
    """Returns how many votes the filter selects, counted up to MOST_COUNTED + 1."""
    rows = await _rows(
        connection,
        _COUNT.format(where=only.where(project)),
        {**only.values(project), "most": MOST_COUNTED + 1},
    )
    return int(rows[0]["votes"])


async def conversation(connection: Connection, project: str, id: str) -> list[DictRow]:
    """Returns the newest turns of a conversation with their replies and active votes, oldest first."""
    newest = _TURNS + "and t.conversation_id = %(id)s order by t.created_at desc, t.id desc limit %(most)s"
    rows = await _rows(connection, newest, {"project": project, "id": id, "most": MOST_TURNS})
    return rows[::-1]


async def turns(
    connection: Connection, project: str, only: Filter, limit: int, before: tuple[datetime, str] | None = None
) -> list[DictRow]:
    """Returns the newest turns, with votes or without, that the filter's time, policy, tags and raters
    select, from before the turn with this time and id. Of a policy, only MOST_OF_POLICY are looked at."""
    selected: list[LiteralString] = [_TURNS]
    if only.since is not None:
        selected.append("and t.created_at >= %(since)s")
    if only.until is not None:
        selected.append("and t.created_at < %(until)s")
    if only.tags:
        selected.append("and t.metadata @> %(metadata)s")
    if only.raters is not None:
        selected.append("and t.rater = any(%(raters)s)")
    if only.policy is not None:
        selected.append("and t.id in (" + _OF_POLICY + ")")
    if before is not None:
        selected.append("and (t.created_at, t.id) < (%(before)s, %(before_id)s)")
    selected.append("order by t.created_at desc, t.id desc limit %(limit)s")
    moment, id = before or (None, None)
    metadata = Jsonb(dict(tag.partition("=")[::2] for tag in only.tags))
    values = {
        "project": project,
        "since": only.since,
        "until": only.until,
        "metadata": metadata,
        "raters": only.raters,
        "policy": only.policy,
        "before": moment,
        "before_id": id,
        "latest": min(filter(None, [moment, only.until]), default=None),
        "limit": limit,
        "most": MOST_OF_POLICY,
    }
    return await _rows(connection, " ".join(selected), values)


async def _rows(connection: Connection, query: LiteralString, values: dict[str, Any]) -> list[DictRow]:
    """A statement is planned for its values each time: a plan for all of them would suit none."""
    cursor = await connection.execute(query, values, prepare=False)
    return await cursor.fetchall()
