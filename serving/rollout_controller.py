"""The controller decides rollouts: it claims those that are due, reads their evidence, records it, and acts.

A claim is one row's `evaluate_after`, moved on by one process while others skip the locked row, so each
rollout is evaluated by one process at a time, however many there are. The decision and the figures that it
rests on are written in one transaction under the route's lock, and only while the rollout is still what was
evaluated.
"""

import time
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from schemas.settings import ServingSettings
from serving import rollout, rollout_evidence, rollout_rows
from serving.rollout_decision import MIN_PEOPLE, Action, Evidence, Rules, decide, figures
from serving.rollout_evidence import Rollout
from serving.router import Route, fetch_route

ACTOR = "people's votes"
"""Who decides, in the record."""

INTERVAL = 5.0
"""Seconds between two evaluations of a rollout."""

_AT_ONCE = 8  # rollouts that one process claims
_LONGER = 20  # an evaluation may take one part in so many of the time

Connection = AsyncConnection[DictRow]

_CLAIM: LiteralString = """
    update rollouts set evaluate_after = now() + make_interval(secs => %s)
    where id in (
        select id from rollouts
        where evaluate_after <= now() or (state = 'running' and evaluate_after is null)
        order by evaluate_after limit %s for update skip locked
    )
    returning id, project, policy, replaces, kind, automatic, share, stages, started_at, ended_at
"""
_RECORD: LiteralString = """
    update rollouts set evidence = %(evidence)s, evidence_at = now(),
        evaluate_after = case when evaluate_after is not null
            then greatest(evaluate_after, now() + make_interval(secs => %(longer)s)) end
    where id = %(id)s
"""
_WAITING: LiteralString = """
    select p.id, p.created_at > live.created_at as newer
    from policies p join routes r on r.project = p.project
    join policies live on live.project = r.project and live.id = r.live
    where p.project = %s and p.state = 'published' and p.asked_at is null
        and (p.gate ->> 'outcome' = 'unknown' or %s)
    order by p.created_at desc, p.id
"""
_DOUBLED: LiteralString = """
    select max((record ->> 'votes')::int) filter (where policy = %(newer)s)
        >= 2 * coalesce(max((record ->> 'votes')::int) filter (where policy = %(tried)s), 0) as doubled
    from rounds where project = %(project)s and policy in (%(newer)s, %(tried)s)
"""
_SUPERSEDE: LiteralString = """
    update policies set state = 'retired', reason = 'a newer policy took its place'
    where project = %s and state = 'published' and asked_at is null and id = any(%s)
"""


@dataclass(frozen=True, slots=True)
class Decided:
    """What was done about a rollout, and the route after it."""

    rollout: Rollout
    action: Action
    reason: str
    route: Route


async def claim(connection: Connection) -> list[Rollout]:
    """Returns rollouts of any project that are due, and that no other process evaluates meanwhile."""
    cursor = await connection.execute(_CLAIM, [INTERVAL, _AT_ONCE])
    return [Rollout.of(row) for row in await cursor.fetchall()]


async def evaluate(connection: Connection, found: Rollout, serving: ServingSettings) -> Decided | None:
    """Evaluates a claimed rollout and acts on it; returns what was done, None where it goes on."""
    started = time.monotonic()
    route = await fetch_route(connection, found.project)
    serving = route.settings(serving)
    evidence = await rollout_evidence.fetch(connection, found, route, serving.base_share)
    newer = False
    if serving.promotion != "manual":
        candidate = await next_candidate(connection, found.project, every=tries_all(serving))
        newer = candidate is not None and await _has_doubled(connection, found, candidate)
    rules = Rules(
        margin=serving.rollout_margin,
        newer=newer,
        last_stage=next_share(found, serving) is None,
    )
    action, reason = decide(evidence, rules)
    if not found.automatic:
        action, reason = "wait", f"An operator began it, and ends it. {reason or waits(evidence)}"
    async with connection.transaction():
        await rollout_rows.lock_route(connection, found.project)
        if not await _goes_on(connection, found):
            return None
        shown = _shown(found, evidence, rules, action, reason)
        longer = _LONGER * (time.monotonic() - started)
        await connection.execute(_RECORD, {"evidence": Jsonb(shown), "longer": longer, "id": found.id})
        changed = await _act(connection, found, action, reason, serving)
    return None if changed is None else Decided(found, action, reason, changed)


async def _act(
    connection: Connection, found: Rollout, action: Action, reason: str, serving: ServingSettings
) -> Route | None:
    project, policy = found.project, found.policy
    match action:
        case "wait":
            return None
        case "advance":
            return await rollout.set_share(connection, project, policy, next_share(found, serving) or 1)
        case "promote":
            return await rollout.promote(connection, project, policy, reason, actor=ACTOR)
        case "rollback":
            return await rollout.rollback_policy(connection, project, policy, reason, actor=ACTOR)
        case "end" if found.mode == "direct":
            await rollout_rows.stop_watching(connection, project, policy)
            return None
        case "end":
            return await rollout.end_trial(connection, project, policy, reason, actor=ACTOR)


async def _goes_on(connection: Connection, found: Rollout) -> bool:
    """Returns whether a claimed rollout is still what was evaluated."""
    cursor = await connection.execute(
        "select share from rollouts where id = %s and evaluate_after is not null", [found.id]
    )
    row = await cursor.fetchone()
    return row is not None and row["share"] == found.share


def next_share(found: Rollout, serving: ServingSettings) -> float | None:
    """Returns the next share of a rollout's ramp; None at its end, and where there is none: for a share that
    somebody chose, and with direct promotion."""
    grows = found.mode == "canary" and found.automatic and serving.promotion != "direct"
    if not grows or found.share not in serving.ramp:
        return None
    at = serving.ramp.index(found.share) + 1
    return serving.ramp[at] if at < len(serving.ramp) else None


def tries_all(serving: ServingSettings) -> bool:
    """Returns whether people try every candidate, also one that the gate found no worse."""
    return serving.promotion in ("canary", "duel")


async def next_candidate(connection: Connection, project: str, *, every: bool) -> str | None:
    """Returns the newest published policy that people are to try, if it is newer than the live one: of
    `every` policy, or of those that the gate could not judge. Older ones are retired: the newest has learned
    what they have, and from more votes. One that is published meanwhile is newer still, and is left."""
    waiting = await (await connection.execute(_WAITING, [project, every])).fetchall()
    newest = waiting[0]["id"] if waiting and waiting[0]["newer"] else None
    older = [row["id"] for row in waiting if row["id"] != newest]
    await connection.execute(_SUPERSEDE, [project, older])
    return newest


async def _has_doubled(connection: Connection, found: Rollout, newer: str) -> bool:
    """Returns whether a newer candidate has learned from at least twice as many votes as the one tried."""
    names = {"project": found.project, "tried": found.policy, "newer": newer}
    row = await (await connection.execute(_DOUBLED, names)).fetchone()
    return row is not None and bool(row["doubled"])


def first_share(serving: ServingSettings) -> tuple[rollout.Trial, float]:
    """Returns how a candidate is tried that nobody chose a share for, and its first share."""
    match serving.promotion:
        case "duel":
            return "duel", 1.0
        case "direct":
            return "canary", serving.canary_share
        case "canary" | "manual":
            return "canary", serving.ramp[0]


async def start(connection: Connection, project: str, policy: str, serving: ServingSettings) -> Route:
    """Starts the trial of a candidate. Raises as `rollout.start_canary`."""
    mode, share = first_share(serving)
    await rollout.start_canary(
        connection, project, policy, share, automatic=True, mode=mode, actor="serving.promotion"
    )
    return await fetch_route(connection, project)


def _shown(found: Rollout, evidence: Evidence, rules: Rules, action: Action, reason: str) -> dict[str, Any]:
    """Returns the record of an evaluation: all figures, what follows from them, and why."""
    return {
        "mode": found.mode,
        "policy": found.policy,
        "live": evidence.live,
        "quality": evidence.quality,
        "voters": evidence.voters,
        "metrics": figures(evidence),
        "missing": sorted(name for name, known in evidence.comparisons.items() if known is None),
        "mismatch": round(evidence.mismatch, 3),
        "margin": rules.margin,
        "share": found.share,
        "automatic": found.automatic,
        "decision": action,
        "words": reason or waits(evidence),
    }


def waits(evidence: Evidence) -> str:
    """Returns why a rollout goes on."""
    if evidence.mode == "direct":
        return "It is live, and watched: people have not shown that it is worse."
    what = "duels" if evidence.mode == "duel" else "votes"
    quality = evidence.comparisons.get(evidence.quality)
    if quality is None or quality.least_people < MIN_PEOPLE:
        return f"{evidence.voters} people's {what}; they decide from {MIN_PEOPLE} people on each side on."
    return f"{evidence.voters} people's {what} do not show yet which is better."
