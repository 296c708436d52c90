"""Rollout transactions promote a policy, roll it back, reject it, or start and end its trial. Each changes
the route, the policies' states and the rollouts' record in one transaction under the route's row lock, and
notifies every process. `actor` is who does it, for the record.

Four things are kept apart: a rollout that ended (its policy is retired), a policy that people or operators
condemned (rolled back), a candidate that the gate refused, and files that are broken (both are rejected). The
first may go live again, the second and the third too where somebody says why, the fourth once it is
reinstated.

They are functions over a connection, so that the service and the command line share them. Loading on the
engines is the task of serving.swap.
"""

from typing import Final, Literal, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from schemas.errors import Conflict, PolicyRejected
from schemas.policies import BASE
from serving import lineage
from serving import rollout_rows as rows
from serving.router import Route

Connection = AsyncConnection[DictRow]

_PARENT_ROLLED_BACK: Final = "parent_rolled_back"
_REPLACED: Final = "another policy went live"
_TAINTED: Final = "it learned from somebody who was erased"

Trial = Literal["canary", "duel"]


async def promote(
    connection: Connection,
    project: str,
    policy: str,
    reason: str | None = None,
    *,
    actor: str | None = None,
    automatic: bool = False,
) -> Route:
    """Makes `policy` live; the policy that was live becomes the previous one, for a rollback, unless it is
    tainted. An automatic trial of another policy ends. With a `reason`, a policy that was rolled back, or
    that the gate refused, is brought back. A policy that went live by itself (`automatic`) is watched.

    Raises Conflict when it is live already or may not go live, PolicyRejected (`parent_rolled_back`) when
    its parent was rolled back meanwhile, NotFound when it does not exist.
    """
    async with connection.transaction():
        route = await rows.lock_route(connection, project)
        if await _check_may_go_live(connection, route, policy, reason):
            await _bring_back(connection, project, policy, reason)
        await rows.set_state(connection, project, route.live, "retired")
        await rows.set_state(connection, project, policy, "live")
        await lineage.mark_inherited(connection, project, policy)
        canary = route.canary if route.canary != policy else None
        if canary is not None and await rows.end_automatic(connection, project, canary, _REPLACED):
            canary = None
        previous = route.live
        if previous in route.tainted:
            previous = await lineage.nearest_ancestor(connection, project, policy)
        await rows.set_route(connection, route, live=policy, previous=previous, canary=canary)
        await rows.stop_watching(connection, project, route.live)
        if not await rows.close_promoted(connection, project, policy, reason, actor):
            await connection.execute(
                "insert into rollouts (id, project, policy, replaces, kind, share, state, reason, actor,"
                " automatic, ended_at, evaluate_after) values (%s, %s, %s, %s, 'direct', 1, 'promoted', %s,"
                " %s, %s, now(), case when %s then now() end)",
                [rows.new_id(), project, policy, route.live, reason, actor, automatic, automatic],
            )
        return await rows.notify(connection, project)


async def request_promotion(
    connection: Connection, project: str, policy: str, reason: str | None = None
) -> None:
    """Requests that serving promote `policy` as soon as the engines have verified it; with a `reason`, a
    policy that was rolled back, or that the gate refused, is retired at once. Raises as `promote`."""
    async with connection.transaction():
        route = await rows.lock_route(connection, project)
        if await _check_may_go_live(connection, route, policy, reason):
            await _bring_back(connection, project, policy, reason)
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


async def rollback(connection: Connection, project: str, reason: str, *, actor: str | None = None) -> Route:
    """Makes the previous policy live, for everybody.

    Raises Conflict when the base is live, as nothing is before it.
    """
    async with connection.transaction():
        route = await rows.lock_route(connection, project)
        if route.live == BASE:
            raise Conflict("The base is live; there is nothing to roll back to.", code="nothing_to_roll_back")
        await _replace_live(connection, route, "rolled_back", reason, actor)
        return await rows.notify(connection, project)


async def reinstate(connection: Connection, project: str, policy: str, reason: str) -> None:
    """Retires a rejected policy, or one that was rolled back, so that an operator may try it or promote it
    again. So may what was trained from it, and what was taken back for its sake is retired with it. `reason`
    is stored with it. Raises Conflict when it is neither, or pruned, and NotFound when it does not exist."""
    async with connection.transaction():
        await rows.lock_route(connection, project)
        state = await rows.state_of(connection, project, policy)
        await check_not_pruned(connection, project, policy)
        if state not in ("rejected", "rolled_back"):
            raise Conflict(f"{policy} is {state}; only a rejected or rolled back policy is reinstated.")
        await _bring_back(connection, project, policy, f"{reason} (was {state})")
        await connection.execute("select pg_notify('hearken_policies', %s)", [project])


async def reject(connection: Connection, project: str, policy: str, reason: str) -> Route:
    """Rejects `policy`, until an operator reinstates it. If it is live, the previous policy takes its
    place."""
    async with connection.transaction():
        route = await rows.lock_route(connection, project)
        if policy == route.live:
            await _replace_live(connection, route, "rejected", reason, None)
        else:
            await _remove(connection, route, policy, "rejected", reason)
        return await rows.notify(connection, project)


async def start_canary(
    connection: Connection,
    project: str,
    policy: str,
    share: float,
    *,
    automatic: bool = False,
    mode: Trial = "canary",
    actor: str | None = None,
) -> str:
    """Gives `policy` a share of the people, or of the pairs that people compare (`duel`); returns the
    rollout's id. An automatic trial is ended by votes (`serving.rollout_controller`), another by operators.
    Raises as `promote`, and Conflict while another trial is running."""
    async with connection.transaction():
        route = await rows.lock_route(connection, project)
        state = await rows.state_of(connection, project, policy)
        await check_not_pruned(connection, project, policy)
        if route.canary is not None:
            raise Conflict(f"{route.canary} is a canary already; promote it or roll it back first.")
        if policy == BASE:
            raise Conflict("The base has its own share always (serving.base_share), and cannot be a canary.")
        if policy == route.live or state not in ("published", "retired"):
            raise Conflict(f"{policy} is {state}; only a published or retired policy can be a canary.")
        await _check_ancestors(connection, project, policy)
        rollout_id = rows.new_id()
        await connection.execute(
            "insert into rollouts (id, project, policy, replaces, kind, share, state, automatic, actor,"
            " stages, evaluate_after) values (%s, %s, %s, %s, %s, %s, 'running', %s, %s,"
            " jsonb_build_array(jsonb_build_object('share', %s::float8, 'since', now())), now())",
            [rollout_id, project, policy, route.live, mode, share, automatic, actor, share],
        )
        await connection.execute("delete from rollout_failures where project = %s", [project])
        await rows.stop_watching(connection, project, route.live)
        await rows.set_state(connection, project, policy, "canary")
        shares = {"share": share} if mode == "canary" else {"duel_share": share}
        await rows.set_route(
            connection, route, live=route.live, previous=route.previous, canary=policy, **shares
        )
        await rows.notify(connection, project)
    return rollout_id


async def leave_tainted(connection: Connection, project: str, *, replace_live: bool) -> Route:
    """Takes policies that learned from somebody who was erased out of the route: the canary ends, the
    previous policy is the newest clean ancestor, and with `replace_live` that one answers, too, until the
    live policy is rebuilt."""
    async with connection.transaction():
        route = await rows.lock_route(connection, project)
        live, canary = route.live, route.canary
        clean = await lineage.nearest_ancestor(connection, project, live)
        if canary in route.tainted:
            assert canary is not None  # noqa: S101  (tainted policies have names)
            await rows.set_state(connection, project, canary, "retired", _TAINTED)
            await rows.close_rollout(connection, project, canary, _TAINTED, None)
            canary = None
        if live in route.tainted and replace_live:
            await rows.stop_watching(connection, project, live)
            await rows.set_state(connection, project, live, "retired", _TAINTED)
            await rows.set_state(connection, project, clean, "live")
            await connection.execute(
                "insert into rollouts (id, project, policy, replaces, kind, share, state, reason, ended_at)"
                " values (%s, %s, %s, %s, 'direct', 1, 'promoted', %s, now())",
                [rows.new_id(), project, clean, live, _TAINTED],
            )
            live = clean
        previous = route.previous
        if previous == live or previous in route.tainted:
            previous = await lineage.nearest_ancestor(connection, project, live)
        if (live, previous, canary) != (route.live, route.previous, route.canary):
            await rows.set_route(connection, route, live=live, previous=previous, canary=canary)
        return await rows.notify(connection, project)


async def set_share(connection: Connection, project: str, policy: str, share: float) -> Route:
    """Begins the next stage of a running canary, with another share. Does nothing when `policy` is none."""
    async with connection.transaction():
        route = await rows.lock_route(connection, project)
        if policy == route.canary and not route.duels:
            await connection.execute(
                "update rollouts set share = %s,"
                " stages = coalesce(stages, '[]') || jsonb_build_object('share', %s::float8, 'since', now())"
                " where project = %s and policy = %s and state = 'running'",
                [share, share, project, policy],
            )
            await connection.execute(
                "update routes set canary_share = %s, version = version + 1, changed_at = now()"
                " where project = %s",
                [share, project],
            )
        return await rows.notify(connection, project)


async def end_trial(
    connection: Connection, project: str, policy: str, reason: str, *, actor: str | None = None
) -> Route:
    """Ends a trial without a verdict: its people return to the live policy, it is retired, and policies that
    were trained from it may still go live. Does nothing when `policy` is not being tried."""
    async with connection.transaction():
        route = await rows.lock_route(connection, project)
        if policy == route.canary:
            await rows.end_trial(connection, route, reason, actor)
        return await rows.notify(connection, project)


async def rollback_policy(
    connection: Connection, project: str, policy: str, reason: str, *, actor: str | None = None
) -> Route:
    """Rolls back `policy`: a canary's conversations return to the live policy, a live policy is replaced by
    the previous one. Raises Conflict when it is neither.

    A canary that was live before is retired again: only its rollout has ended, and it may still be the next
    one to answer."""
    async with connection.transaction():
        route = await rows.lock_route(connection, project)
        if policy == route.live and policy != BASE:
            await _replace_live(connection, route, "rolled_back", reason, actor)
        elif policy == route.canary and await rows.was_live(connection, project, policy):
            await rows.end_trial(connection, route, reason, actor)
        elif policy == route.canary:
            await _remove(connection, route, policy, "rolled_back", reason, actor)
        else:
            raise Conflict(f"{policy} is neither live nor a canary.")
        return await rows.notify(connection, project)


async def _replace_live(
    connection: Connection, route: Route, state: LiteralString, reason: str, actor: str | None
) -> None:
    """Makes the previous policy live. A canary that was the previous policy is promoted; a canary that was
    trained from the live policy ends with it, unless only the live policy's files are at fault."""
    project, canary = route.project, route.canary
    await rows.set_state(connection, project, route.live, state, reason)
    await rows.set_state(connection, project, route.previous, "live")
    await rows.close_rollout(connection, project, route.live, reason, actor)
    if canary == route.previous:
        await rows.close_promoted(connection, project, canary, None, actor)
        canary = None
    elif canary is not None and await lineage.rolled_back_ancestor(connection, project, canary):
        await rows.set_state(connection, project, canary, "rolled_back", _PARENT_ROLLED_BACK)
        await rows.close_rollout(connection, project, canary, _PARENT_ROLLED_BACK, actor)
        canary = None
    if canary is not None and await rows.end_automatic(connection, project, canary, _REPLACED):
        canary = None
    previous = await lineage.nearest_ancestor(connection, project, route.previous)
    await rows.set_route(connection, route, live=route.previous, previous=previous, canary=canary)


async def _remove(
    connection: Connection,
    route: Route,
    policy: str,
    state: LiteralString,
    reason: str,
    actor: str | None = None,
) -> None:
    """Removes a policy that is not live from the route, as a canary and as the previous policy."""
    await rows.set_state(connection, route.project, policy, state, reason)
    await rows.close_rollout(connection, route.project, policy, reason, actor)
    await rows.set_route(
        connection,
        route,
        live=route.live,
        previous=BASE if policy == route.previous else route.previous,
        canary=None if policy == route.canary else route.canary,
    )


async def _check_may_go_live(connection: Connection, route: Route, policy: str, reason: str | None) -> bool:
    """Returns whether it is brought back by that: it was rolled back, or the gate refused it. Raises as
    `promote`."""
    state = await rows.state_of(connection, route.project, policy)
    refused = state == "rejected" and await rows.is_refused(connection, route.project, policy)
    if policy == route.live:
        raise Conflict(f"{policy} is live already.")
    if state == "rejected" and not refused:
        raise Conflict(f"{policy} is rejected; `hearken reinstate` retires it once its files are whole.")
    if refused and reason is None:
        raise Conflict(f"The gate refused {policy}; say why it should answer all the same (a reason).")
    if state == "rolled_back" and reason is None:
        raise Conflict(f"{policy} was rolled back; say why it should answer again (a reason).")
    await check_not_pruned(connection, route.project, policy)
    await _check_ancestors(connection, route.project, policy)
    return refused or state == "rolled_back"


async def _bring_back(connection: Connection, project: str, policy: str, reason: str | None) -> None:
    """Retires `policy`, and what was taken back for its sake alone."""
    await rows.retire(connection, project, policy, reason)
    cursor = await connection.execute(
        "select id from policies where project = %s and state in ('rejected', 'rolled_back')"
        " and reason = %s and pruned_at is null",
        [project, _PARENT_ROLLED_BACK],
    )
    for row in await cursor.fetchall():
        if await lineage.rolled_back_ancestor(connection, project, row["id"]) is None:
            await rows.set_state(connection, project, row["id"], "retired", f"{policy} was brought back")


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
        await rows.state_of(connection, project, policy)
        changed = await connection.execute(
            "update policies set pinned_at = case when %s then coalesce(pinned_at, now()) end"
            " where project = %s and id = %s and pruned_at is null",
            [pinned, project, policy],
        )
        if not changed.rowcount:
            await check_not_pruned(connection, project, policy)
