"""A canary's verdict is people's votes on its replies, against votes in the same time on the other arms.

A candidate that the gate could not judge gets a share of the people. A person stays on their arm, and the
votes of one person are not independent, so the person is the unit: their figure is the mean over their
conversations of the share of thumbs up. Only replies whose policy was drawn count (a propensity below 1),
from the start of the canary on, so the arms differ in nothing but the policy.

The canary is judged when LOOKS of its conversations have been voted on, each time on the votes up to that
moment, so the verdict does not depend on when it is computed. It is promoted when it is shown to be worse
than the live policy by at most MARGIN, and rolled back when it is shown to be worse than the live policy or
the base. Where nothing was shown at the last look, or in MAX_AGE, it ends; after REPLACEABLE_AFTER
conversations it makes room for a newer candidate that waits.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import sqrt
from statistics import mean
from typing import Literal, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from schemas.feedback import JUDGE
from schemas.policies import BASE
from serving import rollout
from serving.router import Route

LOOKS = (10, 20, 40, 80)
"""Conversations of the canary with a vote, at which it is judged."""

MIN_PEOPLE = 8
"""People of an arm, below whom it says nothing: the formula is for more of them."""

Z = 2.24
"""Standard errors of a one-sided 5% over all looks, each of them getting the same share (Bonferroni)."""

MARGIN = 0.05
"""Approval that the promoted policy may at most have lost, share."""

REPLACEABLE_AFTER = 20
"""Conversations of the canary with a vote, after which a newer candidate may take its place."""

MAX_AGE = timedelta(days=14)
"""Longest time of a canary without a decision."""

MAX_VOTES = 20_000
"""Votes since the start of a canary that are read."""

Action = Literal["promote", "rollback", "end", "wait"]

_RUNNING: LiteralString = """
    select policy, started_at, now() - started_at as age, automatic from rollouts
    where project = %s and policy = %s and state = 'running'
"""
_JUDGED: LiteralString = """
    select policy, person, avg(up)::float8 as approval, min(created_at) as since from (
        select r.policy, t.rater as person, t.conversation_id, (f.value ->> 'value' = 'up')::int as up,
            f.created_at
        from feedback f join turns t on t.id = f.turn_id
        join replies r on r.turn_id = f.turn_id and r.choice = f.choice
        where f.project = %(project)s and f.created_at >= %(since)s and t.created_at >= %(since)s
            and f.type = 'thumb' and f.superseded_by is null and f.retracted_at is null
            and not starts_with(f.rater, %(judge)s) and r.propensity < 1 and r.policy = any(%(policies)s)
        order by f.created_at limit %(limit)s
    ) as thumbs group by policy, person, conversation_id order by since, conversation_id
"""


_WAITING: LiteralString = """
    select p.id, p.created_at > live.created_at as newer
    from policies p join routes r on r.project = p.project
    join policies live on live.project = r.project and live.id = r.live
    where p.project = %s and p.state = 'published' and p.gate ->> 'outcome' = 'unknown' and p.asked_at is null
    order by p.created_at desc, p.id
"""
_SUPERSEDE: LiteralString = """
    update policies set state = 'retired', reason = 'a newer policy took its place'
    where project = %s and state = 'published' and gate ->> 'outcome' = 'unknown' and asked_at is null
        and id <> all(%s)
"""


@dataclass(frozen=True, slots=True)
class Judged:
    """A conversation with votes: the policy that answers it, whose it is (a pseudonym), and its share of
    thumbs up."""

    policy: str
    person: str
    approval: float


@dataclass(frozen=True, slots=True)
class Canary:
    """A canary that is running, with the conversations that were voted on since it began, in the order of
    their first votes. Only an automatic one is ended by them."""

    policy: str
    age: timedelta
    judged: list[Judged]
    automatic: bool = True

    def decide(self, live: str, *, newer: bool) -> tuple[Action, str]:
        """Returns what to do, and why. `newer` tells whether a newer candidate waits."""
        own = self.voted
        looks = [look for look in LOOKS if look <= own]
        if looks:
            arms = _arms(self.judged, self.policy, looks[-1])
            canary, others = (
                arms.pop(self.policy),
                {name: arms[name] for name in (live, BASE) if name in arms},
            )
            for name, arm in others.items():
                if canary.people >= MIN_PEOPLE and canary.gain(arm, Z) < 0:
                    return "rollback", f"people like it less than {name}: {canary} against {arm}"
            enough = live in others and min(canary.people, others[live].people) >= MIN_PEOPLE
            if enough and canary.gain(others[live], -Z) > -MARGIN:
                return "promote", f"people like it no less than {live}: {canary} against {others[live]}"
        if newer and (own >= REPLACEABLE_AFTER or self.age > MAX_AGE):
            return "end", f"a newer candidate takes its place; {own} conversations showed nothing"
        if own >= LOOKS[-1] or self.age > MAX_AGE:
            return "end", f"{own} conversations showed no difference to {live}"
        return "wait", ""

    @property
    def voted(self) -> int:
        """The canary's conversations with a vote."""
        return sum(each.policy == self.policy for each in self.judged)

    def arms(self) -> dict[str, "Arm"]:
        """Returns the arms by all votes until now."""
        return _arms(self.judged, self.policy, len(self.judged) + 1)


@dataclass(frozen=True, slots=True)
class Arm:
    """The people of an arm who voted, and the sum of their approvals."""

    people: int
    approvals: float

    def gain(self, other: "Arm", errors: float) -> float:
        """Returns the lead in approval over another arm, plus `errors` standard errors. Each arm gets one
        person who liked and one who disliked it on top, so that few who agree are not certain (Agresti and
        Caffo 2000)."""
        mine, theirs = self._smoothed(), other._smoothed()
        return mine[0] - theirs[0] + errors * sqrt(mine[1] + theirs[1])

    def interval(self, errors: float) -> tuple[float, float]:
        """Returns the bounds of the approval, `errors` standard errors from it."""
        approval, variance = self._smoothed()
        return max(0.0, approval - errors * sqrt(variance)), min(1.0, approval + errors * sqrt(variance))

    def _smoothed(self) -> tuple[float, float]:
        """Returns the approval and its variance, at most that of single votes."""
        count = self.people + 2
        approval = (self.approvals + 1) / count
        return approval, approval * (1 - approval) / count

    def __str__(self) -> str:
        return f"{self.approvals / self.people:.0%} of {self.people} people"


async def find(connection: AsyncConnection[DictRow], route: Route) -> Canary | None:
    """Returns the running canary of a route with its votes."""
    cursor = await connection.execute(_RUNNING, [route.project, route.canary])
    running = await cursor.fetchone()
    if running is None:
        return None
    cursor = await connection.execute(
        _JUDGED,
        {
            "project": route.project,
            "since": running["started_at"],
            "judge": JUDGE,
            "policies": [running["policy"], route.live, BASE],
            "limit": MAX_VOTES,
        },
    )
    judged = [Judged(row["policy"], row["person"], row["approval"]) for row in await cursor.fetchall()]
    return Canary(running["policy"], running["age"], judged, running["automatic"])


async def start(connection: AsyncConnection[DictRow], project: str, policy: str, share: float) -> Route:
    """Starts an automatic canary. Raises as `rollout.start_canary`."""
    await rollout.start_canary(connection, project, policy, share, automatic=True)
    return await rollout.fetch_route(connection, project)


async def end_if_decided(
    connection: AsyncConnection[DictRow], route: Route, *, newer: bool
) -> tuple[Route, str, str] | None:
    """Ends the automatic canary of a route if its votes decide; returns the new route, what was done, and
    why. `newer` tells whether a newer candidate waits. Raises Conflict when it has ended already."""
    canary = await find(connection, route) if route.canary else None
    if canary is None or not canary.automatic:
        return None
    action, reason = canary.decide(route.live, newer=newer)
    match action:
        case "wait":
            return None
        case "promote":
            changed = await rollout.promote(connection, route.project, canary.policy, reason)
        case "rollback":
            changed = await rollout.rollback_policy(connection, route.project, canary.policy, reason)
        case "end":
            changed = await rollout.end_canary(connection, route.project, canary.policy, reason)
    return changed, action, reason


async def next_candidate(connection: AsyncConnection[DictRow], project: str) -> str | None:
    """Returns the newest published policy that the gate could not judge, if it is newer than the live one.
    Older ones are retired: the newest has learned what they have, and from more votes."""
    cursor = await connection.execute(_WAITING, [project])
    waiting = [row["id"] for row in await cursor.fetchall() if row["newer"]]
    await connection.execute(_SUPERSEDE, [project, waiting[:1]])
    return waiting[0] if waiting else None


def _arms(judged: Sequence[Judged], canary: str, look: int) -> dict[str, Arm]:
    """Returns the arms at the moment when `look` conversations of the canary had been voted on."""
    voted: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for each in judged:
        voted[each.policy][each.person].append(each.approval)
        look -= each.policy == canary
        if not look:
            break
    return {
        policy: Arm(len(people), sum(mean(approvals) for approvals in people.values()))
        for policy, people in voted.items()
    }
