"""The export lists every vote, one object each, oldest first; or the active votes, in TRL's dataset layouts.

Superseded votes are included as history and name their successor. Retracted votes are not: a retraction
applies to every later dataset. So `superseded_by` may name a vote that is not in the export, and the active
votes are those without it.
"""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import replace
from itertools import combinations, product
from typing import Any, Literal, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from feedback.layouts import Judgement, Layout, assistant
from feedback.quarantine import COUNTS
from feedback.vote_filter import ALL, Filter
from schemas.database import server_cursor
from schemas.feedback import JUDGE
from schemas.times import rfc3339

# `policy` of a ranking is the policy of all its replies, or null when they have several (see `replies`).
_VOTES: LiteralString = """
select f.id, f.event_id, f.turn_id as completion_id, f.choice, f.type, f.value, f.policy, f.rater as "user",
    f.created_at, f.superseded_by, t.messages as prompt, r.text as reply, ranked.replies, f.text, f.comment,
    jsonb_build_object(
        'layout', case when t.sampling = '{}' then t.metadata ->> 'layout' end,  -- imported, not sampled
        'tools', t.request -> 'tools', 'message', r.message, 'messages', ranked.messages
    ) as whole
from feedback f
join turns t on t.id = f.turn_id
left join replies r on r.turn_id = f.turn_id and r.choice = f.choice
left join lateral (
    select jsonb_agg(jsonb_build_object('choice', choice, 'policy', policy, 'text', text) order by choice)
            as replies,
        jsonb_object_agg(choice, message) as messages
    from replies where turn_id = f.turn_id
) ranked on f.type = 'ranking'
"""
_BY_TIME: LiteralString = """
    and f.retracted_at is null
    and (%(after)s::text is null or (f.created_at, f.id) > (
        select created_at, id from feedback where id = %(after)s and project = %(project)s
    ))
order by f.created_at, f.id
limit %(limit)s
"""
_BY_COMMIT: LiteralString = """
    and f.retracted_at is null
    and (f.epoch, f.xid, f.id) > (%(start)s::integer, %(start_xid)s::xid8, %(start_id)s)
    and (f.epoch, f.xid, f.id) <= (%(end)s::integer, %(end_xid)s::xid8, %(end_id)s)
order by f.epoch, f.xid, f.id
"""
Shape = Literal["text", "messages"]
"""How the rows of a layout have their prompts and replies: as texts, or as lists of messages."""

TABLE = {
    "id": "text", "event_id": "text", "completion_id": "text", "choice": "number", "type": "text",
    "value": "text", "reasons": "texts", "acceptable": "truth", "policy": "text", "user": "text",
    "created_at": "text", "superseded_by": "text", "prompt": "text", "reply": "text", "replies": "text",
    "text": "text", "comment": "text", "message": "text", "tools": "text",
}  # fmt: skip
"""The columns of `everything` in a table, with their kinds; in those of text, what is no text is JSON."""

_VALUE = {"thumb": "value", "ranking": "ranking", "signal": "signal"}


async def everything(
    connection: AsyncConnection[DictRow], project: str, only: Filter = ALL
) -> AsyncGenerator[dict[str, Any]]:
    """Yields the votes of a project in one snapshot, through a server-side cursor: `connection` must be in a
    transaction, and memory does not grow with the votes.

    Keys: id, event_id, completion_id, choice, type, value (`up`, the ranking's groups, the signal's name;
    null for an edit), policy, user (the hash), created_at, superseded_by; then prompt (messages), reply
    (the text voted on), replies (of a ranking: choice, policy and text of each), text (of an edit),
    comment; message (the whole reply, where it is more than text; in `replies` too), tools (those that the
    model had); and reasons (of a thumb, or of a ranking that has some) and acceptable (ranking).
    """
    async with aclosing(_votes(connection, project, only)) as votes:
        async for row in votes:
            whole = row.pop("whole")
            for reply in row["replies"] or ():
                if message := whole["messages"][str(reply["choice"])]:
                    reply["message"] = message
            yield _flat({**row, "message": whole["message"], "tools": whole["tools"]})


async def rows(
    connection: AsyncConnection[DictRow],
    project: str,
    layout: Layout,
    shape: Shape | None = None,
    only: Filter = ALL,
) -> AsyncGenerator[dict[str, Any]]:
    """Yields the active votes of people as rows of a layout; `connection` as for `everything`. Preferences
    come from rankings and from edits (the edit over the original); good completions are edits and replies
    with a thumbs-up. Judges' votes are left out, and those of raters in quarantine: rows name no rater, so
    they would be imported as votes of people. So are images and other files, which no import would take.
    Without a `shape`, a row has that in which it was imported, or else messages; with `text`, conversations
    of more than one message are left out, and so are tools, tool calls and thoughts."""
    async with aclosing(_votes(connection, project, only, teaching=True)) as votes:
        async for vote in votes:
            if vote["superseded_by"] is None and not vote["user"].startswith(JUDGE):
                for judgement in _judgements(vote, layout):
                    shaped = judgement if shape is None else replace(judgement, standard=shape == "text")
                    if _importable(shaped):
                        yield shaped.row()


async def _votes(
    connection: AsyncConnection[DictRow], project: str, only: Filter, *, teaching: bool = False
) -> AsyncGenerator[DictRow]:
    """Yields the votes of a filter; where they are to teach, without those of raters in quarantine."""
    at_once = 100  # so that a process that also serves is free in between
    async with server_cursor(connection, "export", at_once) as cursor:
        query: LiteralString = _VOTES + "where " + only.where(project)
        if teaching:
            query += " and " + COUNTS
        values = only.values(project)
        if only.between is None:
            await cursor.execute(query + _BY_TIME, values | {"after": only.after, "limit": only.limit})
        else:
            for name, position in zip(("start", "end"), only.between, strict=True):
                values |= {name: position.epoch, f"{name}_xid": position.xid, f"{name}_id": position.id}
            await cursor.execute(query + _BY_COMMIT, values)
        async for row in cursor:
            yield row


def _judgements(vote: DictRow, layout: Layout) -> Iterator[Judgement]:
    whole = vote["whole"]
    judged = Judgement(
        layout, vote["prompt"], [], standard=whole["layout"] == "standard", tools=whole["tools"]
    )
    reply = whole["message"] or assistant(vote["reply"])
    if vote["type"] == "thumb":
        good = vote["value"]["value"] == "up"
        if layout == "unpaired" or (layout == "prompt-completion" and good):
            yield replace(judged, replies=[reply], good=good)
    elif vote["type"] == "edit" and layout == "preference":
        yield replace(judged, replies=[assistant(vote["text"]), reply])
    elif vote["type"] == "edit" and layout == "prompt-completion":
        yield replace(judged, replies=[assistant(vote["text"])])
    elif vote["type"] == "ranking" and layout == "preference":
        replies = {
            each["choice"]: whole["messages"][str(each["choice"])] or assistant(each["text"])
            for each in vote["replies"]
        }
        for better, worse in combinations(vote["value"]["ranking"], 2):
            for one, other in product(better, worse):
                yield replace(judged, replies=[replies[one], replies[other]])


def _importable(judgement: Judgement) -> bool:
    """Returns whether a judgement fits its shape, and could be imported again."""
    messages, replies = judgement.messages, judgement.replies
    plain = {"role", "content"}
    if judgement.standard and (
        len(messages) > 1 or judgement.tools or any(each.keys() - plain for each in (*messages, *replies))
    ):
        return False
    text_only = not any(isinstance(each.get("content"), list) for each in messages)
    not_empty = all((each.get("content") or "").strip() or "tool_calls" in each for each in replies)
    return text_only and judgement.told_apart and not_empty and messages[-1]["role"] in ("user", "tool")


def _flat(row: DictRow) -> dict[str, Any]:
    facts = row["value"]
    value = facts.pop(_VALUE[row["type"]]) if row["type"] in _VALUE else None
    return {**row, "value": value, "created_at": rfc3339(row["created_at"]), **facts}
