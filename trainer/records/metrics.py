"""This module exports the trainer's Prometheus metrics of all projects, which are read from the database."""

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
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

_OUTCOMES = ("published", "rejected", "skipped", "failed")

# The unit of the approval z-score is the person, since the thumbs of one person are not independent. Each
# policy gets one pseudo-person with approval 0 and one with 1, so that a few people who agree do not give a
# variance of zero (Agresti and Caffo 2000). By `offset 0` the votes of each new policy are read by an index,
# where the planner would read all votes.
_QUERY = """
with measured as (
    select id from projects order by id <> %(project)s, id limit %(projects)s
), thumbs as (
    select m.id as project, f.policy, {person} as person, (f.value ->> 'value' = 'up')::int as up
    from measured m cross join lateral (
        select * from feedback where project = m.id and created_at > now() - interval '1 day'
        order by created_at desc limit %(most)s
    ) as f
    where f.type = 'thumb' and f.policy is not null and f.superseded_by is null and f.retracted_at is null
        and not starts_with(f.rater, %(judge)s)
), people as (
    select project, policy, person, avg(up)::float8 as up from thumbs group by project, policy, person
    union all
    select project, policy, null, pseudo from (select distinct project, policy from thumbs) as rated,
        (values (0.0), (1.0)) as pseudo_people (pseudo)
), approval as (
    select project, policy, avg(up) as share, var_samp(up) / count(*) as variance
    from people group by project, policy having count(person) >= %(min_people)s
), approval_z as (
    select project, jsonb_object_agg(name,
        (mine.share - theirs.share) / sqrt(mine.variance + theirs.variance)) as of_live
    from routes
        cross join lateral (values ('base', %(base)s), ('previous', previous)) as against (name, policy)
        join approval as mine using (project) join approval as theirs using (project)
    where mine.policy = live and theirs.policy = against.policy and live <> against.policy
    group by project
), counted as (
    select project, jsonb_object_agg(policy, jsonb_build_object('ups', ups, 'downs', downs)) as thumbs from (
        select project, policy, sum(up) as ups, sum(1 - up) as downs from thumbs group by project, policy
    ) as of_policy group by project
), ended as (
    select project, jsonb_object_agg(outcome, number) as rounds from (
        select project, outcome, count(*) as number from rounds group by project, outcome
    ) as of_outcome group by project
), new_policies as (
    select project, id, coalesce(live_at, inherited_at) as since from policies
    where coalesce(live_at, inherited_at) > now() - interval '1 hour'
), to_live as (
    select p.project, percentile_cont(0.5) within group (
        order by extract(epoch from p.since - e.created_at))::float8 as seconds
    from new_policies p cross join lateral (
        select created_at from training_examples where project = p.project and first_policy = p.id
        offset 0
    ) as e group by p.project
), figures as (
    select m.id as project, ended.rounds, counted.thumbs, approval_z.of_live as approval_z,
        to_live.seconds as feedback_to_live,
        (select extract(epoch from ended_at - started_at)::float8 from rounds
            where project = m.id and outcome <> 'running' order by id desc limit 1) as seconds,
        (select count(*) from (
            select from training_examples where project = m.id and superseded_by is null
                and first_policy is null limit %(most)s
        ) as new) as unlearned
    from measured m left join ended on ended.project = m.id left join counted on counted.project = m.id
        left join approval_z on approval_z.project = m.id left join to_live on to_live.project = m.id
)
select
    (select jsonb_object_agg(project, to_jsonb(figures)) from figures) as projects,
    (select count(*) from dead_letters) as dead_letters,
    (select count(*) from blocked_partitions) as blocked_partitions
"""


def training_metrics(url: str, project: str) -> DatabaseMetrics:
    """Returns the collector of the metrics of all projects in the database at `url`; `project` is the
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
    projects = row["projects"] or {}
    yield _rounds(projects)
    yield _thumbs(projects)
    yield from with_old_name(_approval(projects), "hearken_approval_lead")
    yield _gauge(
        projects,
        "unlearned",
        "hearken_votes_unlearned",
        f"Active votes that no policy has learned from, counted up to {MOST_VOTES:,}.",
    )
    yield _gauge(projects, "seconds", "hearken_round_last_seconds", "Duration of the last round, seconds.")
    feedback_to_live = _gauge(
        projects,
        "feedback_to_live",
        "hearken_feedback_to_live_seconds",
        "Time from a vote until a policy that learned from it is live: median of the last hour, seconds.",
    )
    yield from with_old_name(feedback_to_live, "hearken_freshness_seconds")
    dead_letters = GaugeMetricFamily(
        "hearken_dead_letters", "Entries of the log in the dead-letter table.", row["dead_letters"]
    )
    yield from with_old_name(dead_letters, "hearken_log_unreadable")
    blocked = GaugeMetricFamily(
        "hearken_blocked_partitions",
        "Partitions whose next event only a newer trainer can read.",
        row["blocked_partitions"],
    )
    yield from with_old_name(blocked, "hearken_log_waiting")


def _gauge(projects: dict[str, Any], figure: str, name: str, meaning: str) -> Metric:
    """Returns a figure of each project that has it."""
    gauge = GaugeMetricFamily(name, meaning, labels=["project"])
    for project, figures in projects.items():
        if figures[figure] is not None:
            gauge.add_metric([project], figures[figure])
    return gauge


def _rounds(projects: dict[str, Any]) -> Metric:
    """Returns the rounds of each project, from 0 on: an alert sees no increase in what begins with 1."""
    rounds = CounterMetricFamily("hearken_rounds", "Training rounds ended.", labels=["project", "outcome"])
    for project, figures in projects.items():
        for outcome in _OUTCOMES:
            rounds.add_metric([project, outcome], (figures["rounds"] or {}).get(outcome, 0))
    return rounds


def _thumbs(projects: dict[str, Any]) -> Metric:
    thumbs = GaugeMetricFamily(
        "hearken_thumbs",
        f"People's active thumbs of the last day, by the policy of the reply: among the newest {MOST_VOTES:,}"
        " votes of a project.",
        labels=["project", "policy", "value"],
    )
    for project, figures in projects.items():
        for policy, counted in (figures["thumbs"] or {}).items():
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
    for project, figures in projects.items():
        for against, z in (figures["approval_z"] or {}).items():
            approval.add_metric([project, against], z)
    return approval
