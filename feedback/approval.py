"""Approval is the share of thumbs up, with the person as its unit (`feedback.person`): the votes of one
person are not independent, so a figure is the mean over people of each one's own share."""

from dataclasses import replace
from datetime import timedelta
from typing import Any, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from feedback.person import person_of
from feedback.vote_filter import Filter
from schemas.feedback import JUDGE
from schemas.policies import BASE

MOST_VOTES = 100_000
"""Newest thumbs that are read."""

MOST_GROUPS = 12
"""Groups with the most people that are returned."""

_GROUPS: dict[str, LiteralString] = {
    "policy": "select f.policy as name where f.policy is not null",
    "reason": "select jsonb_array_elements_text(f.value -> 'reasons') as name",
    "tag": "select substr(facet, length(%(tag)s) + 1) as name from unnest(f.facets) as facet"
    " where starts_with(facet, %(tag)s)",
    "all": "select 'all' as name",
}
# Steps in UTC; weeks begin on Mondays, as the first day of 2001 did.
_STEPS: dict[str, LiteralString] = {
    "hour": "date_bin('1 hour', f.created_at, '2001-01-01Z')",
    "day": "date_bin('1 day', f.created_at, '2001-01-01Z')",
    "week": "date_bin('7 days', f.created_at, '2001-01-01Z')",
}
# A person is a number here, which is grouped in less time than a name.
_APPROVAL: LiteralString = """
with thumbs as (
    select hashtextextended({person}, 0) as person, grouped.name, {step} as at,
        (f.value ->> 'value' = 'up')::int as up
    from (
        select rater, origin, policy, value, facets, created_at from feedback f
        where {where} and f.type = 'thumb' and not starts_with(f.rater, %(judge)s)
        order by f.created_at desc limit %(most)s
    ) as f, lateral ({group}) as grouped
), people as (
    select name, at, person, avg(up) as approval, count(*) as votes from thumbs
    group by grouping sets ((name, at, person), (name, person))
), figures as (
    select name, at, count(*) as people, sum(votes)::bigint as votes, sum(approval)::float8 as approvals
    from people group by name, at
), largest as (
    select name from figures where at is null order by people desc, name limit %(groups)s
)
select name, at, people, votes, approvals from figures join largest using (name)
order by at nulls first, people desc, name
"""


def step_of(span: timedelta) -> str:
    """Returns the steps in which a time is shown: of a hundred at most, or weeks."""
    if span <= timedelta(hours=100):
        return "hour"
    return "day" if span <= timedelta(days=100) else "week"


async def approval(
    connection: AsyncConnection[DictRow], project: str, only: Filter, by: str, step: str
) -> list[DictRow]:
    """Returns the people, votes and summed approvals of each group in each step of time, and of all the time
    (`at` is None). Groups are those of `policy`, `reason`, `tag:KEY` (a key of the metadata), or `all`; only
    active thumbs of people count."""
    kind, _, key = by.partition(":")
    query = _APPROVAL.format(
        step=_STEPS[step],
        where=replace(only, active=True).where(project),
        group=_GROUPS[kind],
        person=person_of("f"),
    )
    values: dict[str, Any] = {
        **only.values(project),
        "judge": JUDGE,
        "most": MOST_VOTES,
        "groups": MOST_GROUPS,
        "tag": f"tag:{key}=",
    }
    cursor = await connection.execute(query, values, prepare=False)
    return await cursor.fetchall()


def of_holdback(only: Filter) -> Filter:
    """Returns the filter for the same votes on replies of the base."""
    return replace(only, policy=BASE)
