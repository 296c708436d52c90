"""Approval metrics are people's thumbs by policy, and how much better the live policy is liked than the base
or the policy before it, in each project. They are apart from the trainer's other metrics, since of many votes
they take the database longest."""

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from psycopg.rows import DictRow

from feedback.person import person_of
from schemas.database_metrics import PROJECTS_SECONDS, DatabaseMetrics, with_old_name
from schemas.feedback import JUDGE
from schemas.policies import BASE
from schemas.projects import MOST_PROJECTS

MIN_PEOPLE = 20
"""People who must have voted on each of two policies before these are compared."""

MOST_VOTES = 10_000
"""Votes of a project that are read."""

# The unit of the approval z-score is the person, since the thumbs of one person are not independent. Each
# policy gets one pseudo-person with approval 0 and one with 1, so that a few people who agree do not give a
# variance of zero (Agresti and Caffo 2000). A person is a number, which is grouped in less time than a name.
_QUERY = """
with measured as (
    select id from projects order by id <> %(project)s, id limit %(projects)s
), people as materialized (
    select f.project, f.policy, hashtextextended({person}, 0) as person,
        count(*) filter (where f.value ->> 'value' = 'up') as ups,
        count(*) filter (where f.value ->> 'value' is distinct from 'up') as downs
    from measured m cross join lateral (
        select * from feedback where project = m.id and created_at > now() - interval '1 day'
        order by created_at desc limit %(most)s
    ) as f
    where f.type = 'thumb' and f.policy is not null and f.superseded_by is null and f.retracted_at is null
        and not starts_with(f.rater, %(judge)s)
    group by f.project, f.policy, person
), rated as (
    select project, policy, sum(ups) as ups, sum(downs) as downs from people group by project, policy
), shares as (
    select project, policy, person, ups::float8 / (ups + downs) as up from people
    union all
    select project, policy, null, pseudo from rated, (values (0.0), (1.0)) as pseudo_people (pseudo)
), approval as (
    select project, policy, avg(up) as share, var_samp(up) / count(*) as variance
    from shares group by project, policy having count(person) >= %(min_people)s
), approval_z as (
    select project, jsonb_object_agg(name,
        (mine.share - theirs.share) / sqrt(mine.variance + theirs.variance)) as of_live
    from routes
        cross join lateral (values ('base', %(base)s), ('previous', previous)) as against (name, policy)
        join approval as mine using (project) join approval as theirs using (project)
    where mine.policy = live and theirs.policy = against.policy and live <> against.policy
    group by project
), counted as (
    select project, jsonb_object_agg(policy, jsonb_build_object('ups', ups, 'downs', downs)) as thumbs
    from rated group by project
)
select
    (select jsonb_object_agg(project, thumbs) from counted) as thumbs,
    (select jsonb_object_agg(project, of_live) from approval_z) as approval_z
"""


def approval_metrics(url: str, project: str) -> DatabaseMetrics:
    """Returns the collector of the approval of all projects in the database at `url`; `project` is the
    installation's own."""
    parameters = {
        "project": project,
        "projects": MOST_PROJECTS,
        "judge": JUDGE,
        "base": BASE,
        "min_people": MIN_PEOPLE,
        "most": MOST_VOTES,
    }
    query = _QUERY.format(person=person_of("f"))
    return DatabaseMetrics(url, query, parameters, _metrics, seconds=PROJECTS_SECONDS)


def _metrics(row: DictRow) -> Iterator[Metric]:
    yield _thumbs(row["thumbs"] or {})
    yield from with_old_name(_approval(row["approval_z"] or {}), "hearken_approval_lead")


def _thumbs(projects: dict[str, Any]) -> Metric:
    thumbs = GaugeMetricFamily(
        "hearken_thumbs",
        f"People's active thumbs of the last day, by the policy of the reply: among the newest {MOST_VOTES:,}"
        " votes of a project.",
        labels=["project", "policy", "value"],
    )
    for project, policies in projects.items():
        for policy, counted in policies.items():
            thumbs.add_metric([project, policy, "up"], counted["ups"])
            thumbs.add_metric([project, policy, "down"], counted["downs"])
    return thumbs


def _approval(projects: dict[str, Any]) -> Metric:
    approval = GaugeMetricFamily(
        "hearken_approval_z",
        "Z-score of the difference in people's approval between the live policy and the base, or the policy"
        f" before it: these thumbs, once {MIN_PEOPLE} people have voted on each.",
        labels=["project", "against"],
    )
    for project, scores in projects.items():
        for against, z in scores.items():
            approval.add_metric([project, against], z)
    return approval
