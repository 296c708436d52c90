"""Rollouts for the console: the evidence of each as it moves, what was expected of it before anybody saw a
reply, and a preview of who answers after a change.

A preview makes the change itself, in a transaction that is rolled back, so it cannot say anything else than
what would happen, and is refused for the same reasons.
"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from schemas.errors import Conflict, InvalidRequest, PolicyRejected
from schemas.policies import BASE
from serving import rollout
from serving.admin import ESTIMATE, ROLLOUTS, with_times
from serving.auth import Viewer
from serving.router import Route, arms, fetch_route
from serving.services import services

router = APIRouter(prefix="/v1/console/rollouts")

MOST_ROLLOUTS = 100
"""Newest rollouts that are listed."""

Action = Literal["promote", "rollback", "start"]
Connection = AsyncConnection[DictRow]


async def rollouts(connection: Connection, project: str) -> list[dict[str, Any]]:
    """Returns the newest rollouts, each with the evidence that was last seen of it."""
    cursor = await connection.execute(ROLLOUTS, [project, MOST_ROLLOUTS])
    return [with_times(row) for row in await cursor.fetchall()]


async def evidence(connection: Connection, project: str) -> dict[str, Any] | None:
    """Returns the newest evidence of the running trial; None where none is running."""
    cursor = await connection.execute(
        "select evidence, policy, replaces, kind, automatic, share from rollouts"
        " where project = %s and state = 'running'",
        [project],
    )
    row = await cursor.fetchone()
    if row is None:
        return None
    found: dict[str, Any] | None = row["evidence"]
    return found or {
        "mode": row["kind"],
        "policy": row["policy"],
        "live": row["replaces"],
        "voters": 0,
        "metrics": {},
        "missing": [],
        "share": row["share"],
        "automatic": row["automatic"],
        "decision": "wait",
        "words": "It has just begun.",
    }


async def preview(
    connection: Connection,
    project: str,
    action: Action,
    policy: str | None,
    base_share: float,
    share: float = 0.1,
    mode: rollout.Trial = "canary",
) -> dict[str, Any]:
    """Returns who answers now and who would after the action, what becomes of the policies, and the way back.
    Without a policy, the live one is rolled back. Raises as the action."""
    before = await fetch_route(connection, project)
    states = await _states(connection, project)
    policy = policy or before.live
    await connection.execute("set local lock_timeout = '2s'")
    try:
        async with connection.transaction(force_rollback=True):
            match action:
                case "promote":
                    await rollout.promote(connection, project, policy, "preview")
                case "rollback":
                    await rollout.rollback_policy(connection, project, policy, "rolled back by an operator")
                case "start":
                    await rollout.start_canary(connection, project, policy, share, mode=mode)
            after = await fetch_route(connection, project)
            then = await _states(connection, project)
    except PolicyRejected as error:
        raise Conflict(error.message, code=f"policy_{error.reason}", param="policy") from None
    return {
        "action": action,
        "policy": policy,
        "now": answering(before, base_share),
        "then": answering(after, base_share),
        "changes": [
            {"policy": id, "from": state, "to": then[id]} for id, state in states.items() if then[id] != state
        ],
        "words": _words(action, policy, before, after),
        "estimate": await _estimate(connection, project, policy),
        "needs_reason": action == "promote" and states[policy] in ("rolled_back", "rejected"),
        "way_back": _way_back(action, policy, before, after),
    }


def answering(route: Route, base_share: float) -> list[dict[str, Any]]:
    """Returns the policies that answer, the largest share first, each with its role."""
    shares: dict[str, float] = {}
    for policy, share in arms(route, base_share):
        shares[policy] = shares.get(policy, 0.0) + share
    roles = {BASE: "holdback", route.canary: "canary", route.live: "live"}
    found = [
        {"policy": policy, "share": round(share, 4), "role": roles[policy]}
        for policy, share in shares.items()
        if share > 0
    ]
    return sorted(found, key=lambda each: -float(str(each["share"])))


def _words(action: Action, policy: str, before: Route, after: Route) -> str:
    match action:
        case "promote":
            return f"{policy} answers everybody instead of {before.live}, once every engine has proved it."
        case "start" if after.duels:
            return f"One of two replies that people compare is {policy}'s; one reply is as before."
        case "start":
            return f"{after.canary_share:.0%} of the traffic is answered by {policy}, the rest as before."
        case "rollback" if policy == before.live:
            return f"{after.live} answers instead of {policy}, from the next request on."
        case _:
            return f"The people of {policy} are answered by {after.live} again, from the next request on."


def _way_back(action: Action, policy: str, before: Route, after: Route) -> str:
    match action:
        case "promote":
            return f"Roll {policy} back: {after.previous} answers again from the next request on."
        case "start":
            return f"Roll {policy} back: its people are answered by {before.live} again."
        case _:
            return f"Promote {policy} and say why: nothing of it is deleted."


async def _estimate(connection: Connection, project: str, policy: str) -> dict[str, Any] | None:
    """Returns a policy's approval by recorded votes, None where the gate could not estimate it."""
    query = ESTIMATE.format(project="%s", policy="%s")
    row = await (await connection.execute(query, [project, policy])).fetchone()
    return None if row is None else row["estimate"]


async def _states(connection: Connection, project: str) -> dict[str, str]:
    cursor = await connection.execute("select id, state from policies where project = %s", [project])
    return {row["id"]: row["state"] for row in await cursor.fetchall()}


@router.get("")
async def list_rollouts(request: Request, caller: Viewer) -> dict[str, Any]:
    async with services(request).pool.connection() as connection:
        found = await rollouts(connection, caller.project)
    return {"object": "list", "data": found}


@router.get("/preview")
async def preview_change(
    request: Request,
    caller: Viewer,
    action: Action,
    policy: Annotated[str | None, Query(max_length=128)] = None,
    share: Annotated[float, Query(gt=0, le=1)] = 0.1,
    mode: rollout.Trial = "canary",
) -> dict[str, Any]:
    """Says who would answer after `action`, and changes nothing."""
    if action != "rollback" and policy is None:
        raise InvalidRequest(f"Name the policy to {action}.", param="policy")
    parts = services(request)
    async with parts.pool.connection() as connection:
        base_share = parts.settings.serving.base_share
        return await preview(connection, caller.project, action, policy, base_share, share, mode)
