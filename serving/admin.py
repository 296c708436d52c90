"""For operators: policies, rollouts and training rounds of their project. Admin keys only.

Promotion loads and probes before it flips, so it goes through the swap; taking back only flips.
"""

from datetime import datetime
from typing import Annotated, Any, Literal, LiteralString

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from schemas.database import AsyncPool
from schemas.errors import Conflict, NotFound, PolicyRejected
from schemas.times import rfc3339
from schemas.wire import check, decode
from serving import rollout
from serving.auth import Caller, admin
from serving.swap import Swap

router = APIRouter()
Admin = Annotated[Caller, Depends(admin)]
Limit = Annotated[int, Query(ge=1, le=1_000)]

_POLICIES: LiteralString = """
    select id, parent, state, reason, base_digest, digest, manifest->'metrics' as metrics, gate,
           created_at, live_at from policies where project = %s order by created_at desc, id desc limit %s
"""
_LINEAGE: LiteralString = """
    with recursive lineage (id, parent, depth) as (
        select id, parent, 0 from policies where project = %(project)s and id = %(policy)s
        union all
        select p.id, p.parent, depth + 1 from policies p join lineage l on p.id = l.parent
        where p.project = %(project)s
    )
    select id from lineage order by depth
"""
_ROLLOUTS: LiteralString = """
    select id, policy, replaces, kind, share, state, reason, started_at, ended_at
    from rollouts where project = %s order by started_at desc, id desc limit %s
"""
_ROUNDS: LiteralString = """
    select id, parent, policy, outcome, reason, record, started_at, ended_at
    from rounds where project = %s order by id desc limit %s
"""


class NewRollout(BaseModel):
    """A canary: `policy` answers a `share` of the conversations."""

    model_config = ConfigDict(strict=True, extra="forbid")

    policy: str
    share: float = Field(gt=0, le=1)


class Reason(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    reason: str = Field("taken back by an operator", min_length=1, max_length=500)


_NEW_ROLLOUT = TypeAdapter(NewRollout)
_REASON = TypeAdapter(Reason)


@router.get("/v1/policies")
async def policies(request: Request, caller: Admin, limit: Limit = 100) -> dict[str, Any]:
    return _listed(await _rows(request, _POLICIES, [caller.project, limit]))


@router.get("/v1/policies/{policy}")
async def policy(request: Request, policy: str, caller: Admin) -> dict[str, Any]:
    """The manifest, the gate's report, and the lineage from this policy back to the base."""
    async with _pool(request).connection() as connection:
        cursor = await connection.execute(
            "select id, parent, state, reason, digest, manifest, gate, created_at, live_at"
            " from policies where project = %s and id = %s",
            [caller.project, policy],
        )
        row = await cursor.fetchone()
        if row is None:
            raise NotFound(f"There is no policy {policy[:64]}.", code="policy_not_found")
        cursor = await connection.execute(_LINEAGE, {"project": caller.project, "policy": policy})
        lineage = [ancestor["id"] for ancestor in await cursor.fetchall()]
    return {**_plain(row), "lineage": lineage, "served": request.app.state.fleet.serves(policy)}


@router.get("/v1/rollouts")
async def rollouts(request: Request, caller: Admin, limit: Limit = 100) -> dict[str, Any]:
    return _listed(await _rows(request, _ROLLOUTS, [caller.project, limit]))


@router.post("/v1/rollouts", status_code=201)
async def start_rollout(request: Request, caller: Admin) -> dict[str, Any]:
    wanted = check(_NEW_ROLLOUT, decode(await request.body()))
    swap: Swap = request.app.state.swap
    try:
        created = await swap.start_canary(caller.project, wanted.policy, wanted.share)
    except PolicyRejected as error:
        raise Conflict(error.message, code=f"policy_{error.reason}", param="policy") from None
    return await _rollout(request, caller, created)


@router.post("/v1/rollouts/{rollout_id}/{action}")
async def end_rollout(
    request: Request, rollout_id: str, action: Literal["promote", "rollback"], caller: Admin
) -> dict[str, Any]:
    """Promote the running canary, or take back a running canary or the policy that is live."""
    found = await _rollout(request, caller, rollout_id)
    body = await request.body()
    reason = check(_REASON, decode(body)).reason if body else Reason().reason
    swap: Swap = request.app.state.swap
    if action == "promote":
        if found["state"] != "running":
            raise Conflict(f"This rollout is {found['state']}; only a running one can be promoted.")
        try:
            await swap.promote(caller.project, found["policy"])
        except PolicyRejected as error:
            raise Conflict(error.message, code=f"policy_{error.reason}") from None
    else:
        async with _pool(request).connection() as connection:
            route = await rollout.take_back(connection, caller.project, found["policy"], reason)
        swap.adopt(route)
    return await _rollout(request, caller, rollout_id)


@router.get("/v1/rounds")
async def rounds(request: Request, caller: Admin, limit: Limit = 20) -> dict[str, Any]:
    return _listed(await _rows(request, _ROUNDS, [caller.project, limit]))


async def _rollout(request: Request, caller: Caller, rollout_id: str) -> dict[str, Any]:
    for row in await _rows(request, _ROLLOUTS, [caller.project, None]):
        if row["id"] == rollout_id:
            return row
    raise NotFound(f"There is no rollout {rollout_id[:64]}.", code="rollout_not_found")


async def _rows(request: Request, query: LiteralString, values: list[Any]) -> list[dict[str, Any]]:
    async with _pool(request).connection() as connection:
        cursor = await connection.execute(query, values)
        return [_plain(row) for row in await cursor.fetchall()]


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its times as the wire has them."""
    return {name: rfc3339(value) if isinstance(value, datetime) else value for name, value in row.items()}


def _listed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"object": "list", "data": rows}


def _pool(request: Request) -> AsyncPool:
    pool: AsyncPool = request.app.state.pool
    return pool
