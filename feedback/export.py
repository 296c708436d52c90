"""The export lists every vote, one object each, oldest first; or the active votes, in TRL's dataset layouts.

Superseded votes are included as history and name their successor. Retracted votes are not: a retraction
applies to every later dataset. So `superseded_by` may name a vote that is not in the export, and the active
votes are those without it.
"""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from itertools import combinations, product
from typing import Any, Literal, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from feedback.layouts import Judgement, Layout
from feedback.vote_filter import ALL, Filter
from schemas.feedback import JUDGE
from schemas.times import rfc3339
from schemas.wire import json_line

# `policy` of a ranking is the policy of all its replies, or null when they have several (see `replies`).
_VOTES: LiteralString = """
select f.id, f.event_id, f.turn_id as completion_id, f.choice, f.type, f.value, f.policy, f.rater as "user",
    f.created_at, f.superseded_by, t.messages as prompt, r.text as reply, ranked.replies, f.text, f.comment,
    case when t.sampling = '{}' then t.metadata ->> 'layout' end as layout  -- imported, not sampled
from feedback f
join turns t on t.id = f.turn_id
left join replies r on r.turn_id = f.turn_id and r.choice = f.choice
left join lateral (
    select jsonb_agg(jsonb_build_object('choice', choice, 'policy', policy, 'text', text) order by choice)
        as replies from replies where turn_id = f.turn_id
) ranked on f.type = 'ranking'
"""
_PAGE: LiteralString = """
    and f.retracted_at is null
    and (%(after)s::text is null or (f.created_at, f.id) > (
        select created_at, id from feedback where id = %(after)s and project = %(project)s
    ))
order by f.created_at, f.id
limit %(limit)s
"""
Shape = Literal["text", "messages"]
"""How the rows of a layout have their prompts and replies: as texts, or as lists of messages."""

TABLE = {
    "id": "text", "event_id": "text", "completion_id": "text", "choice": "number", "type": "text",
    "value": "text", "reasons": "texts", "acceptable": "truth", "policy": "text", "user": "text",
    "created_at": "text", "superseded_by": "text", "prompt": "text", "reply": "text", "replies": "text",
    "text": "text", "comment": "text",
}  # fmt: skip
"""The columns of `table_row`, with their kinds."""

_VALUE = {"thumb": "value", "ranking": "ranking", "signal": "signal"}


async def everything(
    connection: AsyncConnection[DictRow], project: str, only: Filter = ALL
) -> AsyncIterator[dict[str, Any]]:
    """Yields the votes of a project in one snapshot, through a server-side cursor: `connection` must be in a
    transaction, and memory does not grow with the votes.

    Keys: id, event_id, completion_id, choice, type, value (`up`, the ranking's groups, the signal's name;
    null for an edit), policy, user (the hash), created_at, superseded_by; then prompt (messages), reply
    (the text voted on), replies (of a ranking: choice, policy and text of each), text (of an edit),
    comment; and reasons (thumb) or acceptable (ranking).
    """
    async for row in _votes(connection, project, only):
        del row["layout"]
        yield _flat(row)


def table_row(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row of `everything` with the columns of TABLE, the same for all votes: what is no plain value
    is JSON."""
    found = dict.fromkeys(TABLE) | row
    for name in ("value", "prompt", "replies"):
        if found[name] is not None and not isinstance(found[name], str):
            found[name] = json_line(found[name]).decode()
    return found


async def rows(
    connection: AsyncConnection[DictRow],
    project: str,
    layout: Layout,
    shape: Shape | None = None,
    only: Filter = ALL,
) -> AsyncIterator[dict[str, Any]]:
    """Yields the active votes of people as rows of a layout; `connection` as for `everything`. Preferences
    come from rankings and from edits (the edit over the original); good completions are edits and replies
    with a thumbs-up. Judges' votes are left out: rows name no rater, so they would be imported as votes of
    people. So are replies and conversations that are not text alone, such as tool calls and images, which
    no import would take. Without a `shape`, a row has that in which it was imported, or else messages; with
    `text`, conversations of more than one message are left out."""
    async for vote in _votes(connection, project, only):
        if vote["superseded_by"] is None and not vote["user"].startswith(JUDGE):
            for judgement in _judgements(vote, layout):
                shaped = judgement if shape is None else replace(judgement, standard=shape == "text")
                if _is_text(shaped) and not (shaped.standard and len(shaped.messages) > 1):
                    yield shaped.row()


async def _votes(connection: AsyncConnection[DictRow], project: str, only: Filter) -> AsyncIterator[DictRow]:
    async with connection.cursor(name="export") as cursor:
        cursor.itersize = 500
        page = {"after": only.after, "limit": only.limit}
        await cursor.execute(_VOTES + "where " + only.where(project) + _PAGE, only.values(project) | page)
        async for row in cursor:
            yield row


def _judgements(vote: DictRow, layout: Layout) -> Iterator[Judgement]:
    messages, standard = vote["prompt"], vote["layout"] == "standard"
    if vote["type"] == "thumb":
        good = vote["value"]["value"] == "up"
        if layout == "unpaired" or (layout == "prompt-completion" and good):
            yield Judgement(layout, messages, [vote["reply"]], good, standard)
    elif vote["type"] == "edit" and layout == "preference":
        yield Judgement(layout, messages, [vote["text"], vote["reply"]], standard=standard)
    elif vote["type"] == "edit" and layout == "prompt-completion":
        yield Judgement(layout, messages, [vote["text"]], standard=standard)
    elif vote["type"] == "ranking" and layout == "preference":
        texts = {reply["choice"]: reply["text"] for reply in vote["replies"]}
        for better, worse in combinations(vote["value"]["ranking"], 2):
            for one, other in product(better, worse):
                yield Judgement(layout, messages, [texts[one], texts[other]], standard=standard)


def _is_text(judgement: Judgement) -> bool:
    """Returns whether a judgement has only texts, and could be imported again."""
    plain = all(
        message["role"] in ("system", "user", "assistant")
        and isinstance(message.get("content"), str)
        and "tool_calls" not in message
        for message in judgement.messages
    )
    replies = judgement.replies
    told_apart = len(set(replies)) == len(replies) and all(reply.strip() for reply in replies)
    return plain and told_apart and judgement.messages[-1]["role"] == "user"


def line(row: dict[str, Any]) -> str:
    return json_line(row).decode() + "\n"


def _flat(row: DictRow) -> dict[str, Any]:
    facts = row["value"]
    value = facts.pop(_VALUE[row["type"]]) if row["type"] in _VALUE else None
    return {**row, "value": value, "created_at": rfc3339(row["created_at"]), **facts}
