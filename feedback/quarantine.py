"""The quarantine holds raters whose votes look hostile. Their votes are kept, and teach nothing until an
operator accepts them; the next round then learns from them.

The trainer finds such raters (`hold`) and leaves their votes out; operators look at them and decide.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, LiteralString

from psycopg import AsyncConnection, Connection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from feedback import desk
from feedback.person_votes import VOTED
from feedback.vote_filter import Filter
from schemas.errors import NotFound

State = Literal["held", "accepted", "rejected"]

ACCEPTED_DAYS = 30
"""Days for which a rater whom an operator accepted is not held again for the same reason."""

MOST_HELD = 500
"""Raters of one page."""

SAMPLES = 3
"""Votes of a held rater that are shown with it."""

_AT_ONCE = 1_000
"""Raters that are read at once."""

_TEACHES: LiteralString = """
not exists (
    select from quarantine q
    where q.project = {row}.project and q.rater = {row}.rater and q.state <> 'accepted'
)
"""
TEACHES: LiteralString = _TEACHES.format(row="e")
"""The condition on a row `e` of `training_examples` that its vote teaches."""

COUNTS: LiteralString = _TEACHES.format(row="f")
"""The same of a row `f` of `feedback`, whose vote counts then in the evidence of rollouts."""

_HOLD: LiteralString = """
with voted as ({voted})
insert into quarantine as known (project, rater, reason, evidence)
select %(project)s, %(rater)s, %(reason)s, jsonb_build_object(%(reason)s::text, %(evidence)s::jsonb)
from voted
on conflict (project, rater) do update set
    state = 'held',
    reason = case known.state when 'held' then known.reason else excluded.reason end,
    evidence = case known.state when 'held' then known.evidence else '{{}}' end || excluded.evidence,
    created_at = case known.state when 'held' then known.created_at else now() end,
    decided_at = null, decided_by = null, decision_reason = null
where known.state = 'held'
    or known.state = 'accepted' and coalesce(
        (known.accepted ->> excluded.reason)::timestamptz < now() - %(days)s * interval '24 hours', true
    )
returning created_at = now() as new
"""
_PAGE: LiteralString = """
select id, rater, state, reason, evidence, created_at, decided_at, decided_by, decision_reason, (
    select count(*) from (
        select from feedback f where f.project = q.project and f.rater = q.rater limit %(counted)s
    ) as counted
) as votes
from quarantine q
where project = %(project)s and (%(state)s::text is null or state = %(state)s)
    and (%(before)s::bigint is null or id < %(before)s)
    and (%(rater)s::text is null or rater = %(rater)s)
order by id desc limit %(limit)s
"""
_DECIDE: LiteralString = """
update quarantine set state = %(state)s, decided_at = now(), decision_reason = %(why)s,
    decided_by = coalesce(nullif(current_setting('hearken.actor', true), ''), 'database:' || session_user),
    accepted = case when %(state)s = 'accepted' then accepted || jsonb_build_object(reason, now()) || (
        select coalesce(jsonb_object_agg(found, now()), '{}') from jsonb_object_keys(evidence) as found
    ) else '{}' end
where project = %(project)s and rater = %(rater)s
"""
_STATES: LiteralString = "select state, count(*) as raters from quarantine where project = %s group by state"


def hold(
    connection: Connection[DictRow], project: str, rater: str, reason: str, evidence: Mapping[str, Any]
) -> bool:
    """Holds a rater's votes back; returns whether they were not held before. Who is held already gets this
    evidence beside that of other reasons; who was rejected stays so; who was accepted is held again for
    another reason, or for the same one after ACCEPTED_DAYS. `evidence` has figures and ids, and no text of
    people's."""
    values = {
        "project": project, "rater": rater, "reason": reason, "evidence": Jsonb(dict(evidence)),
        "days": ACCEPTED_DAYS,
    }  # fmt: skip
    row = connection.execute(_HOLD.format(voted=VOTED), values).fetchone()
    return row is not None and bool(row["new"])


def held_raters(connection: Connection[DictRow], project: str) -> Iterator[str]:
    """Yields the raters whose votes do not teach, held or rejected, in order; memory does not grow with
    them. A query leaves their votes out by TEACHES."""
    after = ""
    while True:
        rows = connection.execute(
            "select rater from quarantine where project = %s and rater > %s and state <> 'accepted'"
            " order by rater limit %s",
            [project, after, _AT_ONCE],
        ).fetchall()
        yield from (row["rater"] for row in rows)
        if len(rows) < _AT_ONCE:
            return
        after = rows[-1]["rater"]


async def page(
    connection: AsyncConnection[DictRow],
    project: str,
    limit: int,
    state: State | None = None,
    before: int | None = None,
) -> list[dict[str, Any]]:
    """Returns the newest entries, from before the entry `before`, each with how many votes the rater has cast
    (up to `desk.MOST_COUNTED` + 1)."""
    return await _entries(connection, project, limit, state=state, before=before)


async def entry(connection: AsyncConnection[DictRow], project: str, rater: str) -> dict[str, Any]:
    """Returns one rater's entry, with the newest SAMPLES votes and what they were said of. Raises
    NotFound."""
    found = await _entries(connection, project, 1, rater=rater)
    if not found:
        raise NotFound(f"The rater {rater[:64]} is not in quarantine.", code="rater_not_found")
    samples = await desk.votes(connection, project, Filter(raters=[rater], limit=SAMPLES))
    return {**found[0], "samples": samples}


async def decide(
    connection: AsyncConnection[DictRow],
    project: str,
    rater: str,
    state: Literal["accepted", "rejected"],
    why: str,
) -> dict[str, Any]:
    """Decides that a rater's votes teach again from the next round on, or never; returns the entry. It is
    decided by the actor of the audit log (`schemas.database.set_actor`). A decision may be changed, and the
    same one again changes nothing. Raises NotFound."""
    await connection.execute(
        "select from quarantine where project = %s and rater = %s for update", [project, rater]
    )
    found = await entry(connection, project, rater)
    if found["state"] == state:
        return found
    values = {"project": project, "rater": rater, "state": state, "why": why}
    await connection.execute(_DECIDE, values)
    return await entry(connection, project, rater)


async def counts(connection: AsyncConnection[DictRow], project: str) -> dict[str, int]:
    """Returns how many raters are in each state that any is in."""
    cursor = await connection.execute(_STATES, [project])
    return {row["state"]: row["raters"] for row in await cursor.fetchall()}


async def _entries(
    connection: AsyncConnection[DictRow], project: str, limit: int, **only: Any
) -> list[DictRow]:
    values = {"state": None, "before": None, "rater": None, **only, "project": project, "limit": limit}
    values["counted"] = desk.MOST_COUNTED + 1
    return await (await connection.execute(_PAGE, values, prepare=False)).fetchall()
