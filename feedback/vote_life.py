"""What has become of a vote: recorded, in training, held out, learned, tried, live, or taken back.

A policy trains on all active votes but those that its round held out, so a vote is tried, and live, with any
later policy than the first that learned from it, also where that one was taken back or passed over.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from feedback.pending_votes import pending_votes
from feedback.records import Found
from schemas.database import AsyncPool
from schemas.projects import Promotion

_SOON = 600
"""Seconds within which a round that any new vote starts is not worth a number of votes."""

_MOST_PROGRESS = 0.99  # of a round that takes longer than the last one

_LIFE: LiteralString = """
select p.state, e.held_out_in,
    (
        select min(coalesce(later.live_at, later.inherited_at)) from policies later
        where (p.state in ('rolled_back', 'rejected') or coalesce(p.live_at, p.inherited_at) is null)
            and later.project = f.project and later.state in ('canary', 'live', 'retired')
            and later.created_at > p.created_at and not exists (
                select from rounds where project = f.project and policy = later.id and id = e.held_out_in
            )
    ) as later_live_at,
    current.created_at > p.created_at and not exists (
        select from rounds where project = f.project and policy = current.id and id = e.held_out_in
    ) as current_learned,
    candidate.created_at >= p.created_at and (not exists (
        select from rounds where project = f.project and policy = candidate.id and id = e.held_out_in
    ) or p.id in (select id from ancestors_since_live(f.project, candidate.id))) as candidate_learned,
    p.asked_at is null and coalesce(projects.promotion, %(promotion)s) = 'manual' as awaits_operator,
    round.id as round, round.outcome = 'running' and e.created_at <= round.started_at as in_training,
    extract(epoch from now() - round.started_at)::float8 / nullif(last.seconds, 0) as progress
from feedback f
join projects on projects.id = f.project
left join training_examples e on e.feedback_id = f.id
left join policies p on p.project = f.project and p.id = e.first_policy
left join routes on routes.project = f.project
left join policies current on current.project = f.project and current.id = routes.live
left join policies candidate on candidate.project = f.project and candidate.id = routes.canary
left join lateral (
    select id, outcome, started_at from rounds where project = f.project order by started_at desc limit 1
) as round on true
left join lateral (
    select extract(epoch from ended_at - started_at)::float8 as seconds from rounds
    where project = f.project and outcome in ('published', 'rejected') order by started_at desc limit 1
) as last on true
where f.id = %(id)s
"""


class Pace(NamedTuple):
    """When a round begins: `trainer.min_votes`, `trainer.round_votes` and `trainer.round_seconds`."""

    min_votes: int
    round_votes: int
    round_seconds: float


@dataclass(frozen=True, slots=True)
class Life:
    """`stage` is recorded, training, held_out, learned, awaiting_operator (nothing goes live without one),
    tried (a part of the people is answered by a policy that learned from it), live, taken_back, superseded or
    retracted. `votes_needed` are lacking until the next round, where a number of votes starts it; `progress`
    is the estimated share of the running round; `live_at` the time when the first policy went live that
    learned from it and was not taken back."""

    stage: str
    votes_needed: int | None = None
    progress: float | None = None
    live_at: datetime | None = None


async def life(pool: AsyncPool, found: Found, pace: Pace, promotion: Promotion) -> Life:
    """Returns what has become of a stored vote; `promotion` is that of projects that set none."""
    if found.status != "recorded":
        return Life(found.status)
    async with pool.connection() as connection:
        cursor = await connection.execute(_LIFE, {"id": found.id, "promotion": promotion})
        row = await cursor.fetchone()
        if row is None:
            return Life("retracted")
        if (known := _stage(found, row)) is not None:
            return known
        counted = await pending_votes(connection, found.project, most=pace.round_votes, least=pace.min_votes)
    return Life("recorded", votes_needed=_needed(pace, counted["arrived"], counted["waiting"]))


def _stage(found: Found, row: dict[str, Any]) -> Life | None:
    """Returns the stage of a vote that a round has read; None where none has."""
    if found.policy is not None:
        return _learned(found, row)
    if row["round"] is not None and row["held_out_in"] == row["round"]:
        return Life("held_out")
    if row["in_training"]:
        share = row["progress"]
        return Life("training", progress=None if share is None else round(min(share, _MOST_PROGRESS), 2))
    return None


def _learned(found: Found, row: dict[str, Any]) -> Life:
    """Returns the stage of a vote that a policy has learned from."""
    taken_back = row["state"] in ("rolled_back", "rejected")
    if found.live_at and not taken_back:
        return Life("live", live_at=found.live_at)
    if row["current_learned"]:
        return Life("live", live_at=row["later_live_at"])
    if row["candidate_learned"]:
        return Life("tried")
    if taken_back:
        return Life("taken_back")
    return Life("awaiting_operator" if row["awaits_operator"] else "learned")


def _needed(pace: Pace, arrived: int, new: int) -> int | None:
    """Returns how many more votes start a round; None where any vote does, after a while."""
    if arrived < pace.min_votes:
        return pace.min_votes - arrived
    return max(1, pace.round_votes - new) if pace.round_seconds > _SOON else None
