"""What a rollout has shown so far, read from turns, votes and failures, person by person.

Only replies whose policy was drawn count (a propensity below 1), from the rollout's start on; votes of raters
in quarantine do not. The sessions of one network, which are one person (`feedback.person`), may be on both
sides. A person's figure is the mean over their conversations of the share of thumbs up, or the mean over
their turns. In a duel it is the mean over their rankings, and the other figures are differences within a
turn. A policy that went live for everybody at once is compared with the votes on the policy before it, in
WATCH_BEFORE before it went live, and with the base beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from feedback.person import person_of
from feedback.quarantine import COUNTS
from schemas.feedback import JUDGE
from schemas.policies import BASE
from serving.comparison import Comparison, between_groups, within_people
from serving.confidence_sequence import sample_ratio_evidence
from serving.rollout_decision import Evidence, Mode
from serving.router import Route, arms

MAX_VOTES = 20_000
"""Votes since the start of a rollout that are read."""

MAX_TURNS = 50_000
"""Turns since the start of a rollout that are read."""

GRACE = timedelta(seconds=2)
"""Time after a change of shares until every process answers by it."""

WATCH_BEFORE = timedelta(days=14)
"""Time before a policy went live, whose votes on the policy before it count."""

_VOTES: LiteralString = """
select policy, person, stage, avg(approval)::float8 as value from (
    select policy, person, stage, conversation_id, avg(up) as approval from (
        select r.policy, {person} as person, t.conversation_id,
            (f.value ->> 'value' = 'up')::int as up,
            (select count(*) from unnest(%(stages)s::timestamptz[]) as began
             where t.id >= turn_bound(began))::int as stage
        from feedback f join turns t on t.id = f.turn_id
        join replies r on r.turn_id = f.turn_id and r.choice = f.choice
        where f.project = %(project)s and f.created_at >= %(since)s and t.id >= turn_bound(%(since)s)
            and f.type = 'thumb' and f.superseded_by is null and f.retracted_at is null
            and not starts_with(f.rater, %(judge)s) and r.policy = any(%(policies)s)
            and (r.propensity < 1 or not %(drawn)s) and {counts}
        order by f.created_at limit %(votes)s
    ) as thumbs group by policy, person, stage, conversation_id
) as conversations group by policy, person, stage
"""
_TURNS: LiteralString = """
select r.policy, {person} as person,
    (select count(*) from unnest(%(stages)s::timestamptz[]) as began where t.id >= turn_bound(began))::int
        as stage,
    count(*) as replies, avg(ln(1 + tokens_of(t.request, r.choice, r.token_ids)))::float8 as length,
    avg(ln(greatest(r.seconds, 0.001)))::float8 as latency,
    avg(exists (
        select from feedback f where f.turn_id = t.id and f.choice = r.choice and f.type = 'signal'
            and f.value ->> 'signal' = 'regenerated' and f.retracted_at is null
    )::int)::float8 as regenerations
from (
    select id, rater, origin, request from turns
    where project = %(project)s and created_at >= %(since)s and id >= turn_bound(%(since)s)
    order by created_at limit %(turns)s
) as t join replies r on r.turn_id = t.id
where r.policy = any(%(policies)s) and (r.propensity < 1 or not %(drawn)s) group by 1, 2, 3
"""
_FAILURES: LiteralString = """
select policy, {person} as person, count(*) as failures,
    (select count(*) from unnest(%(stages)s::timestamptz[]) as began where t.created_at >= began)::int
        as stage
from rollout_failures t
where project = %(project)s and created_at >= %(since)s and policy = any(%(policies)s)
group by 1, 2, 4
"""
# The first session of a network is drawn by the shares. Whoever opens more of them sees whose replies they
# get, and may let only some of the turns be stored.
_ARRIVALS: LiteralString = """
select policy, count(distinct person)::int as people, count(*) filter (where nth = 1)::int as arrived
from (
    select r.policy, t.person, row_number() over (partition by t.person order by t.created_at, t.id) as nth
    from (
        select id, {person} as person, created_at from turns t
        where project = %(project)s and created_at >= %(since)s and id >= turn_bound(%(since)s)
        order by created_at limit %(turns)s
    ) as t join replies r on r.turn_id = t.id and r.choice = 0
    where r.policy = any(%(policies)s) and r.propensity < 1
) as drawn group by policy
"""
_DUELS: LiteralString = """
select {person} as person, own.choice = 0 as first,
    ln(1 + tokens_of(t.request, own.choice, own.token_ids))::float8
        - ln(1 + tokens_of(t.request, other.choice, other.token_ids))::float8 as length,
    (ln(greatest(own.seconds, 0.001)) - ln(greatest(other.seconds, 0.001)))::float8 as latency
from (
    select id, rater, origin, request from turns
    where project = %(project)s and created_at >= %(since)s and id >= turn_bound(%(since)s)
    order by created_at limit %(turns)s
) as t
join replies own on own.turn_id = t.id and own.policy = %(candidate)s
join replies other on other.turn_id = t.id and other.policy = %(live)s
"""
_RANKINGS: LiteralString = """
select {person} as person, own.choice as own, other.choice as other,
    f.value -> 'ranking' as ranking
from feedback f join turns t on t.id = f.turn_id
join replies own on own.turn_id = t.id and own.policy = %(candidate)s
join replies other on other.turn_id = t.id and other.policy = %(live)s
where f.project = %(project)s and f.created_at >= %(since)s and t.id >= turn_bound(%(since)s)
    and f.type = 'ranking' and f.superseded_by is null and f.retracted_at is null
    and not starts_with(f.rater, %(judge)s) and {counts}
order by f.created_at limit %(votes)s
"""
_BEFORE: LiteralString = """
select (
    select coalesce(min(created_at), %(began)s) from (
        select created_at from feedback
        where project = %(project)s and created_at >= %(since)s and created_at < %(began)s
        order by created_at desc limit %(votes)s / 2
    ) as newest
) as votes, (
    select coalesce(min(created_at), %(began)s) from (
        select created_at from turns
        where project = %(project)s and created_at >= %(since)s and created_at < %(began)s
        order by created_at desc limit %(turns)s / 2
    ) as newest
) as turns
"""

Connection = AsyncConnection[DictRow]


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout that is being decided. `began` are the starts of its stages, the first the rollout's own."""

    id: str
    project: str
    policy: str
    replaces: str
    mode: Mode
    automatic: bool
    share: float
    began: list[datetime]

    @classmethod
    def of(cls, row: DictRow) -> "Rollout":
        """Returns the rollout of a row of the table."""
        stages = row["stages"] or []
        began = [datetime.fromisoformat(stage["since"]) for stage in stages]
        return cls(
            row["id"],
            row["project"],
            row["policy"],
            row["replaces"],
            row["kind"],
            row["automatic"],
            row["share"],
            began or [row["ended_at"] or row["started_at"]],
        )


async def fetch(connection: Connection, found: Rollout, route: Route, base_share: float) -> Evidence:
    """Returns the evidence of a rollout until now."""
    direct = found.mode == "direct"
    live = found.replaces if direct else route.live
    values: dict[str, Any] = {
        "project": found.project,
        "candidate": found.policy,
        "live": live,
        "policies": list(dict.fromkeys([found.policy, live, BASE])),
        "since": found.began[0] - WATCH_BEFORE if direct else found.began[0] + GRACE,
        "stages": found.began,
        "drawn": base_share > 0 or not direct,
        "judge": JUDGE,
        "votes": MAX_VOTES,
        "turns": MAX_TURNS,
    }
    now = datetime.now(UTC)
    comparisons: dict[str, Comparison | None]
    if found.mode == "duel":
        duels = await _rows(connection, _DUELS, values)
        comparisons = await _by_pairs(connection, values, duels)
        counts = [sum(duel["first"] for duel in duels), sum(not duel["first"] for duel in duels)]
        mismatch, arrived = sample_ratio_evidence(counts, [0.5, 0.5]), len({duel["person"] for duel in duels})
    else:
        comparisons = await _by_groups(connection, values, found, live)
        mismatch, arrived = 0.0, 0
        if not direct:
            since = {"since": found.began[-1] + GRACE}
            counted = await _rows(connection, _ARRIVALS, {**values, **since})
            first = {row["policy"]: row["arrived"] for row in counted}
            mismatch = _mismatch(route, base_share, first)
            arrived = next((row["people"] for row in counted if row["policy"] == found.policy), 0)
    return Evidence(
        found.mode, found.policy, live, comparisons, mismatch,
        age=now - found.began[0], stage_age=now - found.began[-1], stage_people=arrived,
    )  # fmt: skip


async def _by_groups(
    connection: Connection, values: dict[str, Any], found: Rollout, live: str
) -> dict[str, Comparison | None]:
    """Compares the people of the candidate with those of the live policy, or of the one before it."""
    direct = found.mode == "direct"
    votes_since = turns_since = values["since"]
    if direct:  # half of what is read may be from before
        [since] = await _rows(connection, _BEFORE, {**values, "began": found.began[0]})
        votes_since, turns_since = since["votes"], since["turns"]
    votes = await _rows(connection, _VOTES, {**values, "since": votes_since})
    turns = await _rows(connection, _TURNS, {**values, "since": turns_since})
    failures = await _rows(connection, _FAILURES, values)
    asked = {(row["policy"], row["person"], row["stage"]): row["replies"] for row in turns}
    failed = {(row["policy"], row["person"], row["stage"]): row["failures"] for row in failures}
    errors = [
        {
            "policy": policy, "person": person, "stage": stage,
            "errors": failed.get((policy, person, stage), 0)
            / (failed.get((policy, person, stage), 0) + asked.get((policy, person, stage), 0)),
        }
        for policy, person, stage in asked.keys() | failed.keys()
    ]  # fmt: skip

    def compared(rows: Sequence[dict[str, Any]], name: str, other: str, *, before: bool) -> Comparison | None:
        """Compares with what was `before` the rollout, or with what is beside it, stage by stage."""
        used = [
            (row["person"], own, 0 if before else row["stage"], row[name])
            for row in rows
            if row[name] is not None
            and ((own := row["policy"] == found.policy) or row["policy"] == other)
            and (row["stage"] > 0) is (own or not before)
        ]
        return between_groups(*zip(*used, strict=True)) if used else None

    comparisons = {"approval": compared(votes, "value", live, before=direct)}
    if BASE not in (live, found.policy) or direct:
        comparisons["holdback"] = compared(votes, "value", BASE, before=False)
    for name in ("regenerations", "latency", "length"):
        comparisons[name] = compared(turns, name, live, before=direct)
    if not direct:  # what failed before was not counted
        comparisons["errors"] = compared(errors, "errors", live, before=False)
    return comparisons


async def _by_pairs(
    connection: Connection, values: dict[str, Any], duels: list[DictRow]
) -> dict[str, Comparison | None]:
    """Compares the two replies of each duel."""
    rankings = await _rows(connection, _RANKINGS, values)
    scores = [score(row["ranking"], row["own"], row["other"]) for row in rankings]
    comparisons = {"wins": within_people([row["person"] for row in rankings], scores, even=0.5)}
    for name in ("latency", "length"):
        known = [row for row in duels if row[name] is not None]
        comparisons[name] = within_people([row["person"] for row in known], [row[name] for row in known])
    return comparisons


def score(ranking: list[list[int]], own: int, other: int) -> float:
    """Returns 1 where a ranking has one choice before another, 0 where it is behind, ½ where they tie."""
    place = {choice: at for at, group in enumerate(ranking) for choice in group}
    return 0.5 + 0.5 * ((place[own] < place[other]) - (place[own] > place[other]))


def _mismatch(route: Route, base_share: float, people: dict[str, int]) -> float:
    """Returns the evidence that `people`, by the policy that first answered them, do not come in the shares
    of the route."""
    shares: dict[str, float] = {}
    for policy, share in arms(route, base_share):
        shares[policy] = shares.get(policy, 0.0) + share
    expected = {policy: share for policy, share in shares.items() if 0 < share < 1}
    return sample_ratio_evidence([people.get(policy, 0) for policy in expected], list(expected.values()))


async def _rows(connection: Connection, query: LiteralString, values: dict[str, Any]) -> list[DictRow]:
    query = query.format(person=person_of("t"), counts=COUNTS)
    return await (await connection.execute(query, values)).fetchall()
