"""Training rounds for the console: the list with its live progress, and one round's report as a person reads
it."""

from typing import Annotated, Any, LiteralString

from fastapi import APIRouter, Path, Query, Request
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from feedback import desk
from schemas.errors import NotFound
from serving.admin import Limit, with_times
from serving.auth import Viewer
from serving.console import verdict
from serving.services import services

router = APIRouter(prefix="/v1/console")

MOST_ROUNDS = 200
"""Rounds of one page."""

MOST_ID = 2**62
"""Largest id that is asked for; the database has none above 2^63."""

# A round's number counts those of its project.
_ROUNDS: LiteralString = """
with page as (
    select * from rounds where project = %(project)s and (%(before)s::bigint is null or id < %(before)s)
    order by id desc limit %(limit)s
), counted as (
    select count(*) as all from rounds where project = %(project)s and id <= (select max(id) from page)
)
select id, parent, policy, outcome, reason, progress, started_at, ended_at,
    (record ->> 'votes')::bigint as votes, record -> 'gate' ->> 'outcome' as verdict,
    extract(epoch from coalesce(ended_at, now()) - started_at)::float8 as seconds,
    counted.all + 1 - row_number() over (order by id desc) as number,
    case when %(whole)s then record end as record
from page, counted order by id desc
"""


async def rounds(
    connection: AsyncConnection[DictRow], project: str, limit: int, before: int | None = None
) -> list[dict[str, Any]]:
    """Returns the newest rounds, each with its number in the project and its outcome in words."""
    found = await _read(connection, project, limit, before, whole=False)
    for row in found:
        del row["record"]
    return [with_times({**row, "headline": headline(row)}) for row in found]


async def report(connection: AsyncConnection[DictRow], project: str, id: int) -> dict[str, Any]:
    """Returns the report of a round: its outcome in words, the checks of the gate, the votes that weighed
    most with their texts, and the whole record. Raises NotFound."""
    rows = await _read(connection, project, 1, id + 1, whole=True)
    if not rows or rows[0]["id"] != id:
        raise NotFound(f"There is no round {id}.", code="round_not_found")
    row = rows[0]
    record = row.pop("record")
    cursor = await connection.execute(
        "select state, live_at from policies where project = %s and id = %s",
        [project, row["policy"]],
    )
    policy = await cursor.fetchone()
    weights = {each["vote"]: each["weight"] for each in record.get("weightiest") or []}
    votes = await desk.votes_by_event(connection, project, list(weights))
    weighed = [{**with_times(vote), "weight": weights[vote["event_id"]]} for vote in votes]
    gate = record.get("gate")
    return {
        **with_times(row),
        "headline": headline(row),
        "verdict": verdict.headline(gate.get("outcome")) if gate else None,
        "doubts": (gate or {}).get("reasons", []) + (gate or {}).get("doubts", []),
        "checks": verdict.checks(gate),
        "policy_state": policy and policy["state"],
        "votes_that_weighed_most": sorted(weighed, key=lambda vote: -vote["weight"]),
        "record": record,
    }


def headline(row: DictRow) -> str:
    """Returns the outcome of a round in a sentence."""
    match row["outcome"]:
        case "published":
            return f"Made {row['policy']} from {row['parent']}."
        case "rejected" if row["policy"]:
            return f"Made {row['policy']}, which the gate refused; nothing changed for anybody."
        case "rejected":
            return "Made a candidate that the gate refused; nothing changed for anybody."
        case "skipped":
            return f"Skipped: {row['reason'] or 'there was nothing to learn'}."
        case "failed":
            return f"Failed: {row['reason'] or 'for an unknown reason'}."
        case _:
            return "Running."


async def _read(
    connection: AsyncConnection[DictRow], project: str, limit: int, before: int | None, *, whole: bool
) -> list[DictRow]:
    values = {"project": project, "limit": limit, "before": before, "whole": whole}
    return await (await connection.execute(_ROUNDS, values)).fetchall()


@router.get("/rounds")
async def list_rounds(
    request: Request,
    caller: Viewer,
    limit: Limit = 50,
    before: Annotated[int | None, Query(ge=1, le=MOST_ID)] = None,
) -> dict[str, Any]:
    """Lists rounds, newest first, from before the round with this id."""
    async with services(request).pool.connection() as connection:
        found = await rounds(connection, caller.project, min(limit, MOST_ROUNDS), before)
    return {"object": "list", "data": found}


@router.get("/rounds/{id}")
async def one_round(
    request: Request, caller: Viewer, id: Annotated[int, Path(ge=1, le=MOST_ID)]
) -> dict[str, Any]:
    async with services(request).pool.connection() as connection:
        return await report(connection, caller.project, id)
