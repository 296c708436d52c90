"""Everything that people said, one object for each vote, oldest first.

Votes that were superseded are there, as history, and name their successor; votes that were retracted are
not: whoever took a vote back took it back from every dataset made afterwards. So `superseded_by` may name
a vote that is not in the export, and what stands is what has none.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from schemas.times import rfc3339

# `policy` of a ranking is the one that wrote all the replies, or null when several did (see `replies`).
_EXPORT = """
select f.id, f.event_id, f.turn_id as completion_id, f.choice, f.type, f.value,
    coalesce(r.policy, ranked.policy) as policy, f.rater as "user", f.created_at, f.superseded_by,
    t.messages as prompt, r.text as reply, ranked.replies, f.text, f.comment
from feedback f
join turns t on t.id = f.turn_id
left join replies r on r.turn_id = f.turn_id and r.choice = f.choice
left join lateral (
    select jsonb_agg(jsonb_build_object('choice', choice, 'policy', policy, 'text', text) order by choice)
            as replies,
        case when count(distinct policy) = 1 then min(policy) end as policy
    from replies where turn_id = f.turn_id
) ranked on f.type = 'ranking'
where f.project = %s and f.retracted_at is null
order by f.created_at, f.id
"""
_VALUE = {"thumb": "value", "ranking": "ranking", "signal": "signal"}


async def lines(connection: AsyncConnection[DictRow], project: str) -> AsyncIterator[str]:
    """The votes of a project as they stand at one moment, as JSON lines, through a server-side cursor
    (so `connection` must be in a transaction, and memory does not grow with the votes).

    Keys: id, event_id, completion_id, choice, type, value (`up`, the ranking's groups, the signal's name;
    null for an edit), policy, user (the hash), created_at, superseded_by; then prompt (messages), reply
    (the text voted on), replies (of a ranking: choice, policy and text of each), text (of an edit),
    comment; and reasons (thumb) or acceptable (ranking).
    """
    async with connection.cursor(name="export") as cursor:
        cursor.itersize = 500
        await cursor.execute(_EXPORT, [project])
        async for row in cursor:
            yield json.dumps(_flat(row), ensure_ascii=False, separators=(",", ":")) + "\n"


def _flat(row: DictRow) -> dict[str, Any]:
    facts = row["value"]
    value = facts.pop(_VALUE[row["type"]]) if row["type"] in _VALUE else None
    return {**row, "value": value, "created_at": rfc3339(row["created_at"]), **facts}
