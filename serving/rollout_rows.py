"""The rows that a rollout transaction writes: the route, the states of policies, and the rollouts' record.
`serving.rollout` calls these functions under the route's row lock.
"""

import secrets

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from schemas.errors import NotFound
from serving.router import Route, fetch_route

Connection = AsyncConnection[DictRow]


async def lock_route(connection: Connection, project: str) -> Route:
    await connection.execute("select from routes where project = %s for update", [project])
    return await fetch_route(connection, project)


async def notify(connection: Connection, project: str) -> Route:
    await connection.execute("select pg_notify('hearken_routes', %s)", [project])
    return await fetch_route(connection, project)


async def state_of(connection: Connection, project: str, policy: str) -> str:
    cursor = await connection.execute(
        "select state from policies where project = %s and id = %s", [project, policy]
    )
    row = await cursor.fetchone()
    if row is None:
        raise NotFound(f"There is no policy {policy}.", code="policy_not_found")
    return str(row["state"])


async def was_live(connection: Connection, project: str, policy: str) -> bool:
    cursor = await connection.execute(
        "select 1 from policies where project = %s and id = %s and live_at is not null", [project, policy]
    )
    return await cursor.fetchone() is not None


async def is_refused(connection: Connection, project: str, policy: str) -> bool:
    """Returns whether the gate refused `policy`, and no operator has brought it back."""
    cursor = await connection.execute(
        "select 1 from refused_candidates where project = %s and policy = %s", [project, policy]
    )
    return await cursor.fetchone() is not None


async def retire(connection: Connection, project: str, policy: str, reason: str | None) -> None:
    """Retires `policy`. If the gate had refused it, it is one of the policies from now on: the first that
    learned from those of its votes that no older one learned from."""
    await set_state(connection, project, policy, "retired", reason)
    await connection.execute(
        """
        with refused as (
            delete from refused_candidates where project = %s and policy = %s
            returning project, policy, events
        )
        update training_examples e set first_policy = p.id
        from refused r join policies p on p.project = r.project and p.id = r.policy
        where e.project = r.project and e.event_id = any(r.events) and not exists (
            select from policies f
            where f.project = e.project and f.id = e.first_policy and f.created_at <= p.created_at
        )
        """,
        [project, policy],
    )


async def set_state(
    connection: Connection, project: str, policy: str, state: str, reason: str | None = None
) -> None:
    await connection.execute(
        "update policies set state = %(state)s, reason = %(reason)s, asked_at = null, live_at ="
        " case when %(state)s = 'live' then coalesce(live_at, now()) else live_at end"
        " where project = %(project)s and id = %(policy)s",
        {"project": project, "policy": policy, "state": state, "reason": reason},
    )


async def set_route(
    connection: Connection,
    before: Route,
    *,
    live: str,
    previous: str,
    canary: str | None,
    share: float = 0,
    duel_share: float = 0,
) -> None:
    """Writes the route. A canary that goes on keeps its shares."""
    if canary is not None and canary == before.canary:
        share, duel_share = before.canary_share, before.duel_share
    await connection.execute(
        "update routes set live = %s, previous = %s, canary = %s, canary_share = %s, duel_share = %s,"
        " version = version + 1, changed_at = now() where project = %s",
        [live, previous, canary, share if canary else 0, duel_share if canary else 0, before.project],
    )


async def close_promoted(
    connection: Connection, project: str, policy: str, reason: str | None, actor: str | None
) -> bool:
    """Closes the running rollout of `policy`; returns whether it had one."""
    closed = await connection.execute(
        "update rollouts set state = 'promoted', reason = %s, actor = coalesce(%s, actor), ended_at = now(),"
        " evaluate_after = null where project = %s and policy = %s and state = 'running'",
        [reason, actor, project, policy],
    )
    return closed.rowcount > 0


async def end_trial(connection: Connection, route: Route, reason: str, actor: str | None) -> None:
    """Ends the running trial of the route, and retires its policy."""
    await connection.execute(
        "update rollouts set state = 'ended', reason = %s, actor = coalesce(%s, actor), ended_at = now(),"
        " evaluate_after = null where project = %s and policy = %s and state = 'running'",
        [reason, actor, route.project, route.canary],
    )
    await set_state(connection, route.project, str(route.canary), "retired", reason)
    await set_route(connection, route, live=route.live, previous=route.previous, canary=None)


async def end_automatic(connection: Connection, project: str, policy: str, reason: str) -> bool:
    """Ends the running automatic trial of `policy`, which is retired; returns whether there was one."""
    closed = await connection.execute(
        "update rollouts set state = 'ended', reason = %s, ended_at = now(), evaluate_after = null"
        " where project = %s and policy = %s and state = 'running' and automatic",
        [reason, project, policy],
    )
    if closed.rowcount:
        await set_state(connection, project, policy, "retired", reason)
    return closed.rowcount > 0


async def close_rollout(
    connection: Connection, project: str, policy: str, reason: str, actor: str | None
) -> None:
    """Marks the newest rollout of `policy` as rolled back, with the reason."""
    await connection.execute(
        """
        update rollouts set state = 'rolled_back', reason = %(reason)s, actor = coalesce(%(actor)s, actor),
            ended_at = now(), evaluate_after = null
        where id = (select id from rollouts where project = %(project)s and policy = %(policy)s
                    and state in ('running', 'promoted') order by started_at desc limit 1)
        """,
        {"project": project, "policy": policy, "reason": reason, "actor": actor},
    )


async def stop_watching(connection: Connection, project: str, policy: str) -> None:
    """Ends the watch over a policy that went live by itself: another one is tried, or answers."""
    await connection.execute(
        "update rollouts set evaluate_after = null"
        " where project = %s and policy = %s and state = 'promoted' and evaluate_after is not null",
        [project, policy],
    )


def new_id() -> str:
    return f"rollout-{secrets.token_hex(6)}"
