"""Rollout transactions promote a policy, roll it back, reject it, or start its canary. Each changes the
route, the policies' states and the rollouts' record in one transaction under the route's row lock, and
notifies every process.

They are functions over a connection, so that the service and the command line share them. Loading on the
engines is the task of serving.swap.
"""

import secrets
from typing import Final, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from schemas.errors import Conflict, NotFound, PolicyRejected
from schemas.policies import BASE
from serving import lineage
from serving.router import Route, fetch_routes

Connection = AsyncConnection[DictRow]

_PARENT_ROLLED_BACK: Final = "parent_rolled_back"
_REPLACED: Final = "another policy went live"


async def promote(connection: Connection, project: str, policy: str, reason: str | None = None) -> Route:
    """Makes `policy` live; the policy that was live becomes the previous one, for a rollback. An automatic
    canary of another policy ends. `reason` is stored with the policy's running canary.

    Raises Conflict when it is live already or may not go live, PolicyRejected (`parent_rolled_back`) when
    its parent was rolled back meanwhile, NotFound when it does not exist.
    """
    async with connection.transaction():
        route = await _lock_route(connection, project)
        await _check_may_go_live(connection, route, policy)
        await _set_state(connection, project, route.live, "retired")
        await _set_state(connection, project, policy, "live")
        await lineage.mark_inherited(connection, project, policy)
        canary = route.canary if route.canary != policy else None
        if canary is not None and await _end_automatic(connection, project, canary, _REPLACED):
            canary = None
        await _set_route(connection, route, live=policy, previous=route.live, canary=canary)
        if not await _close_promoted(connection, project, policy, reason):
            await connection.execute(
                "insert into rollouts (id, project, policy, replaces, kind, share, state, ended_at)"
                " values (%s, %s, %s, %s, 'direct', 1, 'promoted', now())",
                [_new_id(), project, policy, route.live],
            )
        return await _notify(connection, project)


async def request_promotion(connection: Connection, project: str, policy: str) -> None:
    """Requests that serving promote `policy` as soon as the engines have verified it. Raises as `promote`."""
    async with connection.transaction():
        await _check_may_go_live(connection, await _lock_route(connection, project), policy)
        await connection.execute(
            "update policies set asked_at = now() where project = %s and id = %s", [project, policy]
        )
        await connection.execute("select pg_notify('hearken_policies', %s)", [project])


async def cancel_request(
    connection: Connection, project: str, policy: str, reason: str | None = None
) -> bool:
    """Cancels the request to promote `policy` and stores the `reason`; returns whether there was one."""
    cancelled = await connection.execute(
        "update policies set asked_at = null, reason = coalesce(%s, reason)"
        " where project = %s and id = %s and asked_at is not null",
        [reason, project, policy],
    )
    return cancelled.rowcount > 0


async def rollback(connection: Connection, project: str, reason: str) -> Route:
    """Makes the previous policy live, for all conversations.

    Raises Conflict when the base is live, as nothing is before it.
    """
    async with connection.transaction():
        route = await _lock_route(connection, project)
        if route.live == BASE:
            raise Conflict("The base is live; there is nothing to roll back to.", code="nothing_to_roll_back")
        await _replace_live(connection, route, "rolled_back", reason)
        return await _notify(connection, project)


async def reinstate(connection: Connection, project: str, policy: str, reason: str) -> None:
    """Retires a rejected policy, or one that was rolled back, so that an operator may start its canary or
    promote it again; what was trained from it may go live again, too. `reason` is stored with it. Raises
    Conflict when it is neither, or pruned, and NotFound when it does not exist."""
    async with connection.transaction():
        await _lock_route(connection, project)
        state = await _state(connection, project, policy)
        await check_not_pruned(connection, project, policy)
        if state not in ("rejected", "rolled_back"):
            raise Conflict(f"{policy} is {state}; only a rejected or rolled back policy is reinstated.")
        await _set_state(connection, project, policy, "retired", f"{reason} (was {state})")
        await connection.execute("select pg_notify('hearken_policies', %s)", [project])


async def reject(connection: Connection, project: str, policy: str, reason: str) -> Route:
    """Rejects `policy`, until an operator reinstates it. If it is live, the previous policy takes its
    place."""
    async with connection.transaction():
        route = await _lock_route(connection, project)
        if policy == route.live:
            await _replace_live(connection, route, "rejected", reason)
        else:
            await _remove(connection, route, policy, "rejected", reason)
        return await _notify(connection, project)


async def start_canary(
    connection: Connection, project: str, policy: str, share: float, *, automatic: bool = False
) -> str:
    """Gives `policy` a share of the conversations; returns the rollout's id. An automatic canary is ended by
    votes (`serving.canary`), another by operators. Raises as `promote`, and Conflict while another canary is
    running."""
    async with connection.transaction():
        route = await _lock_route(connection, project)
        state = await _state(connection, project, policy)
        await check_not_pruned(connection, project, policy)
        if route.canary is not None:
            raise Conflict(f"{route.canary} is a canary already; promote it or roll it back first.")
        if policy == BASE:
            raise Conflict("The base has its own share always (serving.base_share), and cannot be a canary.")
        if policy == route.live or state not in ("published", "retired"):
            raise Conflict(f"{policy} is {state}; only a published or retired policy can be a canary.")
        await _check_ancestors(connection, project, policy)
        rollout_id = _new_id()
        await connection.execute(
            "insert into rollouts (id, project, policy, replaces, kind, share, state, automatic)"
            " values (%s, %s, %s, %s, 'canary', %s, 'running', %s)",
            [rollout_id, project, policy, route.live, share, automatic],
        )
        await _set_state(connection, project, policy, "canary")
        await _set_route(
            connection, route, live=route.live, previous=route.previous, canary=policy, share=share
        )
        await _notify(connection, project)
    return rollout_id


async def end_canary(connection: Connection, project: str, policy: str, reason: str) -> Route:
    """Ends an automatic canary without a verdict: its conversations return to the live policy, and policies
    that were trained from it may still go live. Does nothing when `policy` is no such canary."""
    async with connection.transaction():
        route = await _lock_route(connection, project)
        if policy == route.canary and await _end_automatic(connection, project, policy, reason):
            await _set_route(connection, route, live=route.live, previous=route.previous, canary=None)
        return await _notify(connection, project)


async def rollback_policy(connection: Connection, project: str, policy: str, reason: str) -> Route:
    """Rolls back `policy`: a canary's conversations return to the live policy, a live policy is replaced by
    the previous one. Raises Conflict when it is neither.

    A canary that was live before is retired again: only its rollout has ended, and it may still be the next
    one to answer."""
    async with connection.transaction():
        route = await _lock_route(connection, project)
        if policy == route.live and policy != BASE:
            await _replace_live(connection, route, "rolled_back", reason)
        elif policy == route.canary and await _was_live(connection, project, policy):
            await _set_state(connection, project, policy, "retired", reason)
            await _close_rollout(connection, project, policy, reason)
            await _set_route(connection, route, live=route.live, previous=route.previous, canary=None)
        elif policy == route.canary:
            await _remove(connection, route, policy, "rolled_back", reason)
        else:
            raise Conflict(f"{policy} is neither live nor a canary.")
        return await _notify(connection, project)


async def _replace_live(connection: Connection, route: Route, state: LiteralString, reason: str) -> None:
    """Makes the previous policy live. A canary that was the previous policy is promoted; a canary that was
    trained from the live policy ends with it, unless only the live policy's files are at fault."""
    project, canary = route.project, route.canary
    await _set_state(connection, project, route.live, state, reason)
    await _set_state(connection, project, route.previous, "live")
    await _close_rollout(connection, project, route.live, reason)
    if canary == route.previous:
        await _close_promoted(connection, project, canary)
        canary = None
    elif canary is not None and await lineage.rolled_back_ancestor(connection, project, canary):
        await _set_state(connection, project, canary, "rolled_back", _PARENT_ROLLED_BACK)
        await _close_rollout(connection, project, canary, _PARENT_ROLLED_BACK)
        canary = None
    if canary is not None and await _end_automatic(connection, project, canary, _REPLACED):
        canary = None
    previous = await lineage.nearest_ancestor(connection, project, route.previous)
    await _set_route(connection, route, live=route.previous, previous=previous, canary=canary)


async def _remove(
    connection: Connection, route: Route, policy: str, state: LiteralString, reason: str
) -> None:
    """Removes a policy that is not live from the route, as a canary and as the previous policy."""
    await _set_state(connection, route.project, policy, state, reason)
    await _close_rollout(connection, route.project, policy, reason)
    await _set_route(
        connection,
        route,
        live=route.live,
        previous=BASE if policy == route.previous else route.previous,
        canary=None if policy == route.canary else route.canary,
    )


async def _check_may_go_live(connection: Connection, route: Route, policy: str) -> None:
    """Raises as `promote`."""
    state = await _state(connection, route.project, policy)
    if policy == route.live:
        raise Conflict(f"{policy} is live already.")
    if state not in ("published", "canary", "retired"):
        raise Conflict(
            f"{policy} is {state}; only a published or retired policy can go live. `hearken reinstate`"
            " retires one that was rejected or rolled back."
        )
    await check_not_pruned(connection, route.project, policy)
    await _check_ancestors(connection, route.project, policy)


async def _check_ancestors(connection: Connection, project: str, policy: str) -> None:
    ancestor = await lineage.rolled_back_ancestor(connection, project, policy)
    if ancestor is not None:
        raise PolicyRejected(
            f"{policy} was trained from {ancestor}, which was rolled back",
            policy=policy,
            reason=_PARENT_ROLLED_BACK,
        )


async def check_not_pruned(connection: Connection, project: str, policy: str) -> None:
    """Raises Conflict (`policy_pruned`) when the trainer has deleted the files of `policy`, or is about
    to."""
    cursor = await connection.execute(
        "select pruned_at from policies where project = %s and id = %s and pruned_at is not null",
        [project, policy],
    )
    if row := await cursor.fetchone():
        raise Conflict(
            f"{policy} was pruned on {row['pruned_at']:%Y-%m-%d}: only its manifest is kept. Choose a newer "
            "policy; `hearken pin` keeps one, and trainer.keep_policies says how many are kept.",
            code="policy_pruned",
        )


async def set_pinned(connection: Connection, project: str, policy: str, pinned: bool) -> None:
    """Pins `policy`, so that it is never pruned, or unpins it. Raises NotFound, and Conflict when it is
    pruned already."""
    async with connection.transaction():
        await _state(connection, project, policy)
        changed = await connection.execute(
            "update policies set pinned_at = case when %s then coalesce(pinned_at, now()) end"
            " where project = %s and id = %s and pruned_at is null",
            [pinned, project, policy],
        )
        if not changed.rowcount:
            await check_not_pruned(connection, project, policy)


async def _lock_route(connection: Connection, project: str) -> Route:
    await connection.execute("select from routes where project = %s for update", [project])
    return await fetch_route(connection, project)


async def fetch_route(connection: Connection, project: str) -> Route:
    """Returns the project's route. Raises NotFound when it has none."""
    for route in await fetch_routes(connection, project):
        return route
    raise NotFound(f"Project {project} has no policies yet.", code="project_not_found")


async def _notify(connection: Connection, project: str) -> Route:
    await connection.execute("select pg_notify('hearken_routes', %s)", [project])
    return await fetch_route(connection, project)


async def _state(connection: Connection, project: str, policy: str) -> str:
    cursor = await connection.execute(
        "select state from policies where project = %s and id = %s", [project, policy]
    )
    row = await cursor.fetchone()
    if row is None:
        raise NotFound(f"There is no policy {policy}.", code="policy_not_found")
    return str(row["state"])


async def _was_live(connection: Connection, project: str, policy: str) -> bool:
    cursor = await connection.execute(
        "select 1 from policies where project = %s and id = %s and live_at is not null", [project, policy]
    )
    return await cursor.fetchone() is not None


async def _set_state(
    connection: Connection, project: str, policy: str, state: str, reason: str | None = None
) -> None:
    await connection.execute(
        "update policies set state = %(state)s, reason = %(reason)s, asked_at = null, live_at ="
        " case when %(state)s = 'live' then coalesce(live_at, now()) else live_at end"
        " where project = %(project)s and id = %(policy)s",
        {"project": project, "policy": policy, "state": state, "reason": reason},
    )


async def _set_route(
    connection: Connection, before: Route, *, live: str, previous: str, canary: str | None, share: float = 0
) -> None:
    if canary is not None and canary == before.canary:
        share = before.canary_share
    await connection.execute(
        "update routes set live = %s, previous = %s, canary = %s, canary_share = %s,"
        " version = version + 1, changed_at = now() where project = %s",
        [live, previous, canary, share if canary else 0, before.project],
    )


async def _close_promoted(
    connection: Connection, project: str, policy: str, reason: str | None = None
) -> bool:
    """Closes the running rollout of `policy`; returns whether it had one."""
    closed = await connection.execute(
        "update rollouts set state = 'promoted', reason = %s, ended_at = now()"
        " where project = %s and policy = %s and state = 'running'",
        [reason, project, policy],
    )
    return closed.rowcount > 0


async def _end_automatic(connection: Connection, project: str, policy: str, reason: str) -> bool:
    """Ends the running automatic canary of `policy`, which is retired; returns whether there was one."""
    closed = await connection.execute(
        "update rollouts set state = 'rolled_back', reason = %s, ended_at = now()"
        " where project = %s and policy = %s and state = 'running' and automatic",
        [reason, project, policy],
    )
    if closed.rowcount:
        await _set_state(connection, project, policy, "retired", reason)
    return closed.rowcount > 0


async def _close_rollout(connection: Connection, project: str, policy: str, reason: str) -> None:
    """Marks the newest rollout of `policy` as rolled back, with the reason."""
    await connection.execute(
        """
        update rollouts set state = 'rolled_back', reason = %(reason)s, ended_at = now()
        where id = (select id from rollouts where project = %(project)s and policy = %(policy)s
                    and state <> 'rolled_back' order by started_at desc limit 1)
        """,
        {"project": project, "policy": policy, "reason": reason},
    )


def _new_id() -> str:
    return f"rollout-{secrets.token_hex(6)}"
