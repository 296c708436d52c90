"""Policies for the console: the lineage with verdicts in words, one policy with its limits, and how two of
them write."""

from typing import Annotated, Any, LiteralString

from fastapi import APIRouter, Query, Request
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from schemas.errors import InvalidRequest, NotFound
from serving.admin import Limit, with_times
from serving.auth import Viewer
from serving.console import verdict
from serving.services import services

router = APIRouter(prefix="/v1/console/policies")

STYLE_REPLIES = 400
"""Newest replies of a policy by which its style is measured."""

MOST_SAMPLES = 10
"""Prompts that two policies were asked alike, to read side by side."""

_POLICIES: LiteralString = """
select p.id, p.parent, p.state, p.reason, p.gate ->> 'outcome' as verdict, p.created_at, p.live_at,
    p.inherited_at, p.pinned_at, p.pruned_at, (p.manifest ->> 'examples')::bigint as examples,
    round.id as round, r.live = p.id as is_live,
    r.canary = p.id as is_canary, r.previous = p.id as is_previous
from policies p
left join routes r on r.project = p.project
left join rounds round on round.project = p.project and round.policy = p.id
where p.project = %(project)s
"""
_STYLE: LiteralString = """
select count(*) as replies, avg(array_length(regexp_split_to_array(trim(text), '\\s+'), 1))::float8 as words,
    avg(regexp_count(text, '[.!?]+(\\s|$)'))::float8 as sentences,
    avg((text ~ '\\?')::int)::float8 as questions, avg((text ~ '!')::int)::float8 as exclamations,
    avg((text ~ '(^|\\n)\\s*([-*•]|[0-9]+[.)])\\s')::int)::float8 as lists,
    avg((text ~ '[0-9]')::int)::float8 as numbers, avg((text ~ '\\mI\\M')::int)::float8 as first_person,
    avg((text ~ '\\n\\s*\\n')::int)::float8 as paragraphs
from (
    select text from replies where project = %s and policy = %s and text <> ''
    order by turn_id desc limit %s
) as newest
"""
_SHARED_PROMPTS: LiteralString = """
with said as (
    select r.policy, r.text, message_text(t.messages -> -1) as prompt, r.turn_id from (
        (select * from replies where project = %(project)s and policy = %(one)s
            order by turn_id desc limit %(of)s)
        union all
        (select * from replies where project = %(project)s and policy = %(other)s
            order by turn_id desc limit %(of)s)
    ) as r join turns t on t.id = r.turn_id where jsonb_array_length(t.messages) <= 2
)
select one.prompt, min(one.text) as one, min(other.text) as other, max(one.turn_id) as newest
from said one join said other using (prompt)
where one.policy = %(one)s and other.policy = %(other)s and one.prompt is not null
group by one.prompt order by newest desc limit %(most)s
"""


async def policies(connection: AsyncConnection[DictRow], project: str, limit: int) -> list[dict[str, Any]]:
    """Returns the newest policies, each with its verdict in words."""
    newest = _POLICIES + "order by p.created_at desc, p.id desc limit %(limit)s"
    cursor = await connection.execute(newest, {"project": project, "limit": limit})
    return [_told(row) for row in await cursor.fetchall()]


async def policy(connection: AsyncConnection[DictRow], project: str, id: str) -> dict[str, Any]:
    """Returns one policy with the checks of the gate, samples from before and after its round, its parents
    back to the base, and its children. Raises NotFound."""
    cursor = await connection.execute(_POLICIES + "and p.id = %(id)s", {"project": project, "id": id})
    row = await cursor.fetchone()
    if row is None:
        raise NotFound(f"There is no policy {id[:64]}.", code="policy_not_found")
    cursor = await connection.execute(
        """
        with recursive lineage (id, parent, depth) as (
            select id, parent, 0 from policies where project = %(project)s and id = %(id)s
            union all
            select p.id, p.parent, depth + 1 from policies p join lineage l on p.id = l.parent
            where p.project = %(project)s and depth < 1000
        )
        select gate, (select record -> 'samples' from rounds where project = %(project)s and policy = %(id)s
                order by id desc limit 1) as samples,
            array(select id from lineage where depth > 0 order by depth) as ancestors,
            array(select id from policies where project = %(project)s and parent = %(id)s order by created_at
                limit 100) as children
        from policies where project = %(project)s and id = %(id)s
        """,
        {"project": project, "id": id},
    )
    more = await cursor.fetchone()
    assert more is not None  # noqa: S101  (the row was there)
    gate = more["gate"]
    return {
        **_told(row),
        "ancestors": more["ancestors"],
        "children": more["children"],
        "doubts": (gate or {}).get("reasons", []) + (gate or {}).get("doubts", []),
        "checks": verdict.checks(gate),
        "samples": more["samples"] or [],
    }


async def styles(connection: AsyncConnection[DictRow], project: str, one: str, other: str) -> dict[str, Any]:
    """Returns how two policies write, by their newest replies to people, and replies to the same prompts."""
    found = {}
    for policy in (one, other):
        cursor = await connection.execute(_STYLE, [project, policy, STYLE_REPLIES])
        found[policy] = await cursor.fetchone()
    cursor = await connection.execute(
        _SHARED_PROMPTS,
        {"project": project, "one": one, "other": other, "of": STYLE_REPLIES, "most": MOST_SAMPLES},
    )
    samples = [
        {"prompt": row["prompt"], "one": row["one"], "other": row["other"]} for row in await cursor.fetchall()
    ]
    return {"one": found[one], "other": found[other], "samples": samples}


def _told(row: DictRow) -> dict[str, Any]:
    """Returns a policy with its verdict in words."""
    told = "The base model." if row["parent"] is None else verdict.headline(row["verdict"])
    if row["verdict"] == "unknown" and row["live_at"] is not None:
        told = "The gate could not judge it, so people did, and it went live."
    if row["verdict"] == "refused" and row["state"] in ("live", "canary"):
        told = "The gate refused it, and an operator lets it answer all the same."
    return with_times({**row, "headline": told})


@router.get("")
async def list_policies(request: Request, caller: Viewer, limit: Limit = 200) -> dict[str, Any]:
    async with services(request).pool.connection() as connection:
        found = await policies(connection, caller.project, limit)
    return {"object": "list", "data": found}


@router.get("/{id}")
async def one_policy(request: Request, caller: Viewer, id: str) -> dict[str, Any]:
    async with services(request).pool.connection() as connection:
        return await policy(connection, caller.project, id)


@router.get("/{id}/style")
async def style(
    request: Request, caller: Viewer, id: str, against: Annotated[str, Query(max_length=128)]
) -> dict[str, Any]:
    """Compares how this policy and another one write."""
    if id == against:
        raise InvalidRequest("Two policies are compared; name another one.", param="against")
    async with services(request).pool.connection() as connection:
        for each in (id, against):
            await policy(connection, caller.project, each)
        return await styles(connection, caller.project, id, against)
