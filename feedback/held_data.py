"""Held data is all that a project holds about one person, as one JSON document that a person can read.

It is written in pieces from one snapshot, through server-side cursors, so memory does not grow with it."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, LiteralString

import orjson
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from feedback import saved_views
from schemas.database import server_cursor

Connection = AsyncConnection[DictRow]

_AT_ONCE = 100
"""Rows that are read at once."""

_SUMMARY: LiteralString = """
select (select count(*) from turns where project = %(project)s and rater = any(%(raters)s)) as turns,
    (select count(*) from feedback where project = %(project)s and facets && %(facets)s) as votes,
    array(select distinct first_policy from training_examples
        where project = %(project)s and rater = any(%(raters)s) and first_policy is not null
        order by 1) as learned_by
"""
_LISTS: dict[str, LiteralString] = {
    "turns": """
select t.id, t.created_at, t.conversation_id, t.messages, t.metadata, t.request,
    t.origin as network,
    (select jsonb_agg(jsonb_build_object('choice', choice, 'policy', policy, 'text', text, 'message', message)
        order by choice) from replies where turn_id = t.id) as replies
from turns t where t.project = %(project)s and t.rater = any(%(raters)s)
""",
    "votes": """
select f.id, f.created_at, f.turn_id as completion_id, f.choice, f.type, f.value, f.text, f.comment,
    f.superseded_by, f.retracted_at, e.first_policy as learned_by
from feedback f left join training_examples e on e.feedback_id = f.id
where f.project = %(project)s and f.facets && %(facets)s and f.rater = any(%(raters)s)
""",
    "comment_criteria": """
select c.feedback_id, c.judge, c.criteria, c.reason, c.created_at
from feedback f join comment_criteria c on c.feedback_id = f.id
where f.project = %(project)s and f.facets && %(facets)s and f.rater = any(%(raters)s)
""",
    "training_examples": """
select event_id, feedback_id, turn_id, choice, type, value, created_at, superseded_by,
    first_policy as learned_by
from training_examples where project = %(project)s and rater = any(%(raters)s)
""",
    "consent": """
select distinct learning, set_by, set_at from consents
where project = %(project)s
    and hash in (select person_hash(%(project)s, rater) from unnest(%(raters)s::text[]) as rater)
""",
    "quarantine": """
select state, reason, evidence, created_at, decided_at, decision_reason
from quarantine where project = %(project)s and rater = any(%(raters)s)
""",
    "tastes": """
select policy, weights, votes, updated_at from person_tastes
where project = %(project)s and rater = any(%(raters)s)
""",
    "failed_requests": """
select policy, created_at, origin as network from rollout_failures
where project = %(project)s and rater = any(%(raters)s)
""",
    "annotation_queues": """
select queue, name from annotation_raters where project = %(project)s and rater = any(%(raters)s)
""",
}


async def summary(connection: Connection, project: str, raters: Sequence[str]) -> dict[str, Any]:
    """Returns how many `turns` and `votes` a person has, and `learned_by`: the policies that were the first
    to learn from their votes."""
    cursor = await connection.execute(_SUMMARY, _values(project, raters))
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101  (an aggregate gives its row)
    return row


async def document(
    connection: Connection, project: str, raters: Sequence[str], user: str | None = None
) -> AsyncGenerator[bytes]:
    """Yields the document. `user` is the person's name, which saved filters may have, too. `connection` must
    be in a transaction."""
    found = await summary(connection, project, raters)
    head = {"project": project, "pseudonyms": list(raters), "learned_by": found["learned_by"]}
    yield orjson.dumps(head, option=orjson.OPT_INDENT_2).removesuffix(b"\n}")
    for name, statement in _LISTS.items():
        yield b',\n  "%s": [' % name.encode()
        async with server_cursor(connection, f"held_{name}", _AT_ONCE) as cursor:
            await cursor.execute(statement, _values(project, raters))
            between = b"\n"
            async for row in cursor:
                yield between + orjson.dumps(row, option=orjson.OPT_INDENT_2)
                between = b",\n"
        yield b"]"
    filters = await saved_views.naming(connection, project, {*raters, *filter(None, [user])})
    yield b',\n  "saved_filters": ' + orjson.dumps(filters, option=orjson.OPT_INDENT_2) + b"\n}\n"


def _values(project: str, raters: Sequence[str]) -> dict[str, Any]:
    return {"project": project, "raters": list(raters), "facets": [f"rater:{rater}" for rater in raters]}
