"""This module exports the trainer's Prometheus metrics of all projects, which are read from the database."""

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from psycopg.rows import DictRow

from schemas.database_metrics import PROJECTS_SECONDS, DatabaseMetrics, with_old_name
from schemas.projects import MOST_PROJECTS

MOST_VOTES = 10_000
"""Votes of a project that are counted."""

_OUTCOMES = ("published", "rejected", "skipped", "failed")

# By `offset 0` the votes of each new policy are read by an index, where the planner would read all votes.
_QUERY = """
with measured as (
    select id from projects order by id <> %(project)s, id limit %(projects)s
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
    select m.id as project, ended.rounds, to_live.seconds as feedback_to_live,
        (select extract(epoch from ended_at - started_at)::float8 from rounds
            where project = m.id and outcome <> 'running' order by id desc limit 1) as seconds,
        (select count(*) from (
            select from training_examples where project = m.id and superseded_by is null
                and first_policy is null limit %(most)s
        ) as new) as unlearned
    from measured m left join ended on ended.project = m.id left join to_live on to_live.project = m.id
)
select
    (select jsonb_object_agg(project, to_jsonb(figures)) from figures) as projects,
    (select count(*) from dead_letters) as dead_letters,
    (select count(*) from blocked_partitions) as blocked_partitions
"""


def training_metrics(url: str, project: str) -> DatabaseMetrics:
    """Returns the collector of the metrics of all projects in the database at `url`; `project` is the
    installation's own."""
    parameters = {"project": project, "projects": MOST_PROJECTS, "most": MOST_VOTES}
    return DatabaseMetrics(url, _QUERY, parameters, _metrics, seconds=PROJECTS_SECONDS)


def _metrics(row: DictRow) -> Iterator[Metric]:
    projects = row["projects"] or {}
    yield _rounds(projects)
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
