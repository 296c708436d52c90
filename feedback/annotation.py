"""An annotation queue is a list of turns that several raters judge. Their answers are votes like others, so a
queue stores none of its own."""

import secrets
from collections import defaultdict
from dataclasses import replace
from typing import Any, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from feedback.agreement import Agreement, agreement
from feedback.vote_filter import Filter
from schemas.errors import Conflict, NotFound
from schemas.wire import json_line

MOST_ITEMS = 500
"""Turns of one queue."""

MOST_VOTES = 10_000
"""Newest votes among which the turns of a queue are looked for."""

MOST_QUEUES = 50
"""Queues of a project."""

MOST_RATERS = 20
"""Raters of one queue."""

Connection = AsyncConnection[DictRow]

_QUEUES: LiteralString = """
select q.id, q.name, q.raters, q.created_at,
    (select count(*) from annotation_items where queue = q.id) as items,
    array(select name from annotation_raters where queue = q.id order by name) as names
from annotation_queues q where q.project = %(project)s
"""
_ITEMS: LiteralString = """
insert into annotation_items (project, queue, position, turn_id)
select %(project)s, %(queue)s, row_number() over (order by at desc, turn_id), turn_id from (
    select turn_id, max(created_at) as at from (
        select f.turn_id, f.created_at from feedback f where {where}
        order by f.created_at desc, f.id desc limit %(votes)s
    ) as newest group by turn_id order by at desc, turn_id limit %(most)s
) as found
"""
_ANSWERS: LiteralString = """
from annotation_items i
join annotation_raters r on r.queue = i.queue
join feedback f on f.turn_id = i.turn_id and f.rater = r.rater and f.type in ('thumb', 'ranking')
    and f.superseded_by is null and f.retracted_at is null
where i.queue = %(queue)s
"""
_NEXT: LiteralString = """
with answers as (select i.turn_id, r.name {answers})
select i.position, i.turn_id from annotation_items i
where i.queue = %(queue)s and exists (select from turns where id = i.turn_id)
    and (select count(distinct name) from answers where turn_id = i.turn_id) < %(raters)s
    and not exists (select from answers where turn_id = i.turn_id and name = %(name)s)
order by i.position limit 1
"""


async def queues(connection: Connection, project: str) -> list[DictRow]:
    """Returns the project's queues, newest first."""
    cursor = await connection.execute(
        _QUEUES + "order by q.created_at desc limit %(most)s", {"project": project, "most": MOST_QUEUES}
    )
    return await cursor.fetchall()


async def queue(connection: Connection, project: str, id: str) -> DictRow:
    """Returns one queue. Raises NotFound."""
    cursor = await connection.execute(_QUEUES + "and q.id = %(id)s", {"project": project, "id": id})
    row = await cursor.fetchone()
    if row is None:
        raise NotFound(f"There is no queue {id[:64]}.", code="queue_not_found")
    return row


async def create(
    connection: Connection, project: str, name: str, raters: int, only: Filter, most: int
) -> str:
    """Creates a queue of the newest turns, at most `most`, whose votes the filter selects; returns its id.
    Raises Conflict where there are MOST_QUEUES, or no turn is selected."""
    id = f"queue-{secrets.token_hex(6)}"
    async with connection.transaction():
        await connection.execute("select from projects where id = %s for update", [project])
        if len(await queues(connection, project)) >= MOST_QUEUES:
            raise Conflict(f"There are {MOST_QUEUES} queues; delete one first.", code="too_many_queues")
        await connection.execute(
            "insert into annotation_queues (id, project, name, raters) values (%s, %s, %s, %s)",
            [id, project, name, raters],
        )
        active = replace(only, active=True)
        values = {**active.values(project), "queue": id, "most": most, "votes": MOST_VOTES}
        added = await connection.execute(_ITEMS.format(where=active.where(project)), values, prepare=False)
        if not added.rowcount:
            raise Conflict("The filter selects no vote, so there is nothing to rate.", code="empty_queue")
    return id


async def delete(connection: Connection, project: str, id: str) -> None:
    """Deletes a queue; the votes that answered it stay. Raises NotFound."""
    await queue(connection, project, id)
    await connection.execute("delete from annotation_queues where id = %s", [id])


async def enrol(connection: Connection, project: str, queue: str, name: str, rater: str) -> None:
    """Adds a rater to a queue, once. Raises Conflict where it has MOST_RATERS."""
    added = await connection.execute(
        "insert into annotation_raters (project, queue, name, rater)"
        " select %(project)s, %(queue)s, %(name)s, %(rater)s"
        " where (select count(*) from annotation_raters where queue = %(queue)s) < %(most)s"
        " or exists (select from annotation_raters where queue = %(queue)s and name = %(name)s)"
        " on conflict do nothing returning 1",
        {"project": project, "queue": queue, "name": name, "rater": rater, "most": MOST_RATERS},
    )
    if added.rowcount:
        return
    known = await connection.execute(
        "select 1 from annotation_raters where queue = %s and name = %s", [queue, name]
    )
    if await known.fetchone() is None:
        raise Conflict(f"A queue has {MOST_RATERS} raters at most.", code="too_many_raters")


async def next_item(connection: Connection, queue: DictRow, name: str) -> DictRow | None:
    """Returns the position and the turn of the first item that this rater has not answered and that needs
    answers; None where there is none."""
    values = {"queue": queue["id"], "raters": queue["raters"], "name": name}
    return await (await connection.execute(_NEXT.format(answers=_ANSWERS), values)).fetchone()


async def has_turn(connection: Connection, queue: str, turn: str) -> bool:
    """Returns whether a turn is an item of the queue."""
    cursor = await connection.execute(
        "select 1 from annotation_items where queue = %s and turn_id = %s", [queue, turn]
    )
    return await cursor.fetchone() is not None


async def progress(connection: Connection, queue: DictRow) -> dict[str, Any]:
    """Returns the number of answers of each rater, of items with all their answers, and the agreement."""
    cursor = await connection.execute(
        "select i.turn_id, r.name, f.choice, f.value " + _ANSWERS + " order by f.created_at",
        {"queue": queue["id"]},
    )
    said: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for row in await cursor.fetchall():
        said[row["turn_id"]][row["name"]] = _verdict(row["value"])
    found: Agreement = agreement([list(verdicts.values()) for verdicts in said.values()])
    answers = {name: sum(name in verdicts for verdicts in said.values()) for name in queue["names"]}
    complete = sum(len(verdicts) >= queue["raters"] for verdicts in said.values())
    return {
        "answers": answers,
        "complete": complete,
        "agreement": {"compared": found.compared, "share": found.share, "alpha": found.alpha},
    }


def _verdict(value: dict[str, Any]) -> str:
    """Returns what an answer says, without its reasons."""
    if "value" in value:
        return str(value["value"])
    return json_line(value["ranking"]).decode() if value.get("acceptable", True) else "none"
