"""The operators' API shows and changes a project's policies, rollouts and training rounds: the role read
shows, the role operate changes.

A promotion goes through the swap, which loads and verifies the policy first; a rollback only changes the
route.
"""

from datetime import datetime
from typing import Annotated, Any, Literal, LiteralString

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from schemas.errors import Conflict, NotFound, PolicyRejected
from schemas.policies import adapter_name
from schemas.times import rfc3339
from schemas.wire import check, decode
from serving import rollout
from serving.auth import Operator, Viewer, acting, actor_of
from serving.keys import Caller
from serving.openapi import request_body
from serving.services import services

router = APIRouter()
Limit = Annotated[int, Query(ge=1, le=1_000)]

_POLICIES: LiteralString = """
    select id, parent, state, reason, base_digest, digest, manifest->'metrics' as metrics, gate,
           created_at, live_at, pinned_at, pruned_at, tainted_at, rebuilds
    from policies where project = %s order by created_at desc, id desc limit %s
"""
MOST_ANCESTORS = 1_000
"""The newest ancestors of a policy that are named."""
_LINEAGE: LiteralString = """
    with recursive lineage (id, parent, depth) as (
        select id, parent, 0 from policies where project = %(project)s and id = %(policy)s
        union all
        select p.id, p.parent, depth + 1 from policies p join lineage l on p.id = l.parent
        where p.project = %(project)s and depth < %(most)s
    )
    select id from lineage order by depth
"""
ESTIMATE: LiteralString = """
    select jsonb_object_agg(name, figure) as estimate
    from policies p, jsonb_each(p.gate -> 'figures') as figures (name, figure)
    where p.project = {project} and p.id = {policy} and starts_with(name, 'approval')
        and jsonb_typeof(p.gate #> '{{figures,approval}}') = 'number'
"""
"""The approval of a policy by recorded votes, which the gate estimated before anybody saw a reply of it; null
where it could not."""
_ROLLOUT_COLUMNS: LiteralString = """
    select id, policy, replaces, kind, share, stages, automatic, state, reason, actor, evidence, evidence_at,
        started_at, ended_at, ({estimate}) as estimate
    from rollouts r where project = %s
""".format(estimate=ESTIMATE.format(project="r.project", policy="r.policy"))  # noqa: S608  (it is ours)
ROLLOUTS: LiteralString = _ROLLOUT_COLUMNS + "order by started_at desc, id desc limit %s"
_ROLLOUT: LiteralString = _ROLLOUT_COLUMNS + "and id = %s"
_ROUNDS: LiteralString = """
    select id, parent, policy, outcome, reason, record, started_at, ended_at
    from rounds where project = %s order by id desc limit %s
"""


class NewRollout(BaseModel):
    """A trial of `policy`: a canary answers a `share` of the people, in a duel it answers one reply of a
    share of the pairs. Without a share, people's votes decide; with one, whoever began it does."""

    model_config = ConfigDict(strict=True, extra="forbid")

    policy: str
    mode: rollout.Trial | None = None
    share: float | None = Field(None, gt=0, le=1)


class Reason(BaseModel):
    """Why an operator promotes a policy or takes it back. It brings back what was rolled back, or what the
    gate refused."""

    model_config = ConfigDict(strict=True, extra="forbid")

    reason: str | None = Field(None, min_length=1, max_length=500)


class Reinstatement(BaseModel):
    """Why an operator takes back that a policy was rejected or rolled back."""

    model_config = ConfigDict(strict=True, extra="forbid")

    reason: str = Field("reinstated by an operator", min_length=1, max_length=500)


_NEW_ROLLOUT = TypeAdapter(NewRollout)
_REINSTATEMENT = TypeAdapter(Reinstatement)
_REASON = TypeAdapter(Reason)


@router.get("/v1/policies")
async def policies(request: Request, caller: Viewer, limit: Limit = 100) -> dict[str, Any]:
    return _list(await _rows(request, _POLICIES, [caller.project, limit]))


@router.get("/v1/policies/{policy}")
async def policy(request: Request, policy: str, caller: Viewer) -> dict[str, Any]:
    """Returns the manifest, the gate's report, and the lineage from this policy back to the base, or
    MOST_ANCESTORS of it."""
    return await _policy(request, policy, caller)


async def _policy(request: Request, policy: str, caller: Caller) -> dict[str, Any]:
    async with services(request).pool.connection() as connection:
        cursor = await connection.execute(
            "select id, parent, state, reason, digest, manifest, gate, created_at, live_at,"
            " pinned_at, pruned_at, tainted_at, rebuilds from policies where project = %s and id = %s",
            [caller.project, policy],
        )
        row = await cursor.fetchone()
        if row is None:
            raise NotFound(f"There is no policy {policy[:64]}.", code="policy_not_found")
        values = {"project": caller.project, "policy": policy, "most": MOST_ANCESTORS}
        cursor = await connection.execute(_LINEAGE, values)
        lineage = [ancestor["id"] for ancestor in await cursor.fetchall()]
    served = services(request).fleet.serves(adapter_name(caller.project, policy, row["digest"]))
    return {**with_times(row), "lineage": lineage, "served": served}


@router.post(
    "/v1/policies/{policy}/reinstate",
    openapi_extra=request_body("/v1/policies/{policy}/reinstate", Reinstatement, required=False),
)
async def reinstate(request: Request, policy: str, caller: Operator) -> dict[str, Any]:
    """Retires a policy that was rejected or rolled back, so that it may be tried again."""
    body = await request.body()
    reason = (check(_REINSTATEMENT, decode(body)) if body else Reinstatement()).reason
    async with acting(request, caller) as connection:
        await rollout.reinstate(connection, caller.project, policy, reason)
    return await _policy(request, policy, caller)


@router.post(
    "/v1/policies/{policy}/promote",
    openapi_extra=request_body("/v1/policies/{policy}/promote", Reason, required=False),
)
async def promote(request: Request, policy: str, caller: Operator) -> dict[str, Any]:
    """Makes a policy live for everybody, after every engine has loaded and verified it. One that was rolled
    back, or that the gate refused, needs a reason."""
    await _policy(request, policy, caller)
    await _promote(request, caller, policy)
    return await _policy(request, policy, caller)


@router.post("/v1/policies/{policy}/rollback")
async def rollback(request: Request, policy: str, caller: Operator) -> dict[str, Any]:
    """Rolls back the live policy or the canary."""
    await _policy(request, policy, caller)
    await _rollback(request, caller, policy)
    return await _policy(request, policy, caller)


@router.post("/v1/training/{action}")
async def set_training(
    request: Request, action: Literal["pause", "resume"], caller: Operator
) -> dict[str, bool]:
    """Pauses training after the current round, or resumes it."""
    paused = action == "pause"
    async with acting(request, caller) as connection:
        await connection.execute("update projects set paused = %s where id = %s", [paused, caller.project])
    return {"paused": paused}


@router.get("/v1/rollouts")
async def rollouts(request: Request, caller: Viewer, limit: Limit = 100) -> dict[str, Any]:
    return _list(await _rows(request, ROLLOUTS, [caller.project, limit]))


@router.post("/v1/rollouts", status_code=201, openapi_extra=request_body("/v1/rollouts", NewRollout))
async def start_rollout(request: Request, caller: Operator) -> dict[str, Any]:
    new = check(_NEW_ROLLOUT, decode(await request.body()))
    try:
        rollout_id = await services(request).swap.start_canary(
            caller.project, new.policy, new.share, new.mode, actor=actor_of(caller)
        )
    except PolicyRejected as error:
        raise Conflict(error.message, code=f"policy_{error.reason}", param="policy") from None
    return await _rollout(request, caller, rollout_id)


@router.post(
    "/v1/rollouts/{rollout_id}/{action}",
    openapi_extra=request_body("/v1/rollouts/{rollout_id}/{action}", Reason, required=False),
)
async def end_rollout(
    request: Request, rollout_id: str, action: Literal["promote", "rollback"], caller: Operator
) -> dict[str, Any]:
    """Promotes the running canary, or rolls back a running canary or the live policy."""
    found = await _rollout(request, caller, rollout_id)
    if action == "promote":
        if found["state"] != "running":
            raise Conflict(f"This rollout is {found['state']}; only a running one can be promoted.")
        await _promote(request, caller, found["policy"])
    else:
        await _rollback(request, caller, found["policy"])
    return await _rollout(request, caller, rollout_id)


@router.get("/v1/rounds")
async def rounds(request: Request, caller: Viewer, limit: Limit = 20) -> dict[str, Any]:
    return _list(await _rows(request, _ROUNDS, [caller.project, limit]))


async def _promote(request: Request, caller: Caller, policy: str) -> None:
    """Promotes `policy`, for the reason in the request's body if there is one."""
    reason = await _reason(request)
    try:
        await services(request).swap.promote(caller.project, policy, reason, actor=actor_of(caller))
    except PolicyRejected as error:
        raise Conflict(error.message, code=f"policy_{error.reason}") from None


async def _rollback(request: Request, caller: Caller, policy: str) -> None:
    """Rolls `policy` back for the reason in the request's body, or that of an operator."""
    reason = await _reason(request) or "rolled back by an operator"
    async with acting(request, caller) as connection:
        route = await rollout.rollback_policy(
            connection, caller.project, policy, reason, actor=actor_of(caller)
        )
    services(request).swap.use_route(route)


async def _reason(request: Request) -> str | None:
    body = await request.body()
    return check(_REASON, decode(body)).reason if body else None


async def _rollout(request: Request, caller: Caller, rollout_id: str) -> dict[str, Any]:
    for row in await _rows(request, _ROLLOUT, [caller.project, rollout_id]):
        return row
    raise NotFound(f"There is no rollout {rollout_id[:64]}.", code="rollout_not_found")


async def _rows(request: Request, query: LiteralString, values: list[Any]) -> list[dict[str, Any]]:
    async with services(request).pool.connection() as connection:
        cursor = await connection.execute(query, values)
        return [with_times(row) for row in await cursor.fetchall()]


def with_times(row: dict[str, Any]) -> dict[str, Any]:
    """Returns the row with its times as RFC 3339 strings."""
    return {name: rfc3339(value) if isinstance(value, datetime) else value for name, value in row.items()}


def _list(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"object": "list", "data": rows}
