"""Rollouts for the console: the evidence of the running canary as it moves, and a preview of who answers
after a change.

A preview makes the change itself, in a transaction that is rolled back, so it cannot say anything else than
what would happen, and is refused for the same reasons.
"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from schemas.errors import Conflict, InvalidRequest, PolicyRejected
from schemas.policies import BASE
from serving import canary, rollout
from serving.admin import with_times
from serving.auth import Viewer
from serving.canary import LOOKS, Z
from serving.router import Route, arms
from serving.services import services

router = APIRouter(prefix="/v1/console/rollouts")

MOST_ROLLOUTS = 100
"""Newest rollouts that are listed."""

Action = Literal["promote", "rollback", "start"]
Connection = AsyncConnection[DictRow]


async def rollouts(connection: Connection, project: str) -> list[dict[str, Any]]:
    """Returns the newest rollouts; the running one has its evidence."""
    cursor = await connection.execute(
        "select id, policy, replaces, kind, share, automatic, state, reason, started_at, ended_at"
        " from rollouts where project = %s order by started_at desc, id desc limit %s",
        [project, MOST_ROLLOUTS],
    )
    found = [with_times(row) for row in await cursor.fetchall()]
    running = next((each for each in found if each["state"] == "running"), None)
    if running is not None:
        running["evidence"] = await evidence(connection, project)
    return found


async def evidence(connection: Connection, project: str) -> dict[str, Any] | None:
    """Returns what people's votes say of the running canary, with the interval that decides; None where none
    is running."""
    route = await rollout.fetch_route(connection, project)
    found = await canary.find(connection, route) if route.canary else None
    if found is None:
        return None
    own = found.voted
    action, reason = found.decide(route.live, newer=False)
    shown = {}
    for name, arm in found.arms().items():
        low, high = arm.interval(Z)
        shown[name] = {
            "people": arm.people,
            "approval": round(arm.approvals / arm.people, 4),
            "low": round(low, 4),
            "high": round(high, 4),
        }
    return {
        "policy": found.policy,
        "live": route.live,
        "voted": own,
        "next_look": next((look for look in LOOKS if look > own), None),
        "last_look": LOOKS[-1],
        "least_people": canary.MIN_PEOPLE,
        "margin": canary.MARGIN,
        "automatic": found.automatic,
        "decision": action,
        "words": reason or _waits(found.automatic, own),
        "arms": shown,
    }


async def preview(
    connection: Connection,
    project: str,
    action: Action,
    policy: str | None,
    base_share: float,
    share: float = 0.1,
) -> dict[str, Any]:
    """Returns who answers now and who would after the action, what becomes of the policies, and the way back.
    Without a policy, the live one is rolled back. Raises as the action."""
    before = await rollout.fetch_route(connection, project)
    states = await _states(connection, project)
    policy = policy or before.live
    await connection.execute("set local lock_timeout = '2s'")
    try:
        async with connection.transaction(force_rollback=True):
            match action:
                case "promote":
                    await rollout.promote(connection, project, policy)
                case "rollback":
                    await rollout.rollback_policy(connection, project, policy, "rolled back by an operator")
                case "start":
                    await rollout.start_canary(connection, project, policy, share)
            after = await rollout.fetch_route(connection, project)
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
        case "start":
            return f"{after.canary_share:.0%} of the people are answered by {policy}, the others as before."
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
            return f"Reinstate {policy}, then promote it: nothing of it is deleted."


def _waits(automatic: bool, own: int) -> str:
    """Returns why a canary goes on."""
    if not automatic:
        return "An operator began it, and ends it."
    look = next((look for look in LOOKS if look > own), LOOKS[-1])
    return f"{own} of its conversations have votes; the next look is at {look}."


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
) -> dict[str, Any]:
    """Says who would answer after `action`, and changes nothing."""
    if action != "rollback" and policy is None:
        raise InvalidRequest(f"Name the policy to {action}.", param="policy")
    parts = services(request)
    async with parts.pool.connection() as connection:
        base_share = parts.settings.serving.base_share
        return await preview(connection, caller.project, action, policy, base_share, share)
