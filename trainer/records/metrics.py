"""This module exports the trainer's Prometheus metrics, which are read from the database at each scrape."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from psycopg.rows import DictRow

from feedback.person import person_of
from schemas.database_metrics import DatabaseMetrics, with_old_name
from schemas.feedback import JUDGE
from schemas.policies import BASE

MIN_PEOPLE = 20
"""People who must have voted on each of two policies before these are compared."""

_OUTCOMES = ("published", "rejected", "skipped", "failed")

# The unit of the approval z-score is the person, since the thumbs of one person are not independent. Each
# policy gets one pseudo-person with approval 0 and one with 1, so that a few people who agree do not give a
# variance of zero (Agresti and Caffo 2000). By `offset 0` the votes of each new policy are read by an index,
# where the planner would read all votes.
_QUERY = """
with thumbs as (
    select r.policy, {person} as person, (e.value ->> 'value' = 'up')::int as up
    from training_examples e join replies r on r.turn_id = e.turn_id and r.choice = e.choice
    join turns t on t.id = e.turn_id
    where e.project = %(project)s and e.type = 'thumb' and e.superseded_by is null
        and e.created_at > now() - interval '1 day' and not starts_with(e.rater, %(judge)s)
), people as (
    select policy, person, avg(up)::float8 as up from thumbs group by policy, person
    union all
    select policy, null, pseudo from (select distinct policy from thumbs) as rated,
        (values (0.0), (1.0)) as pseudo_people (pseudo)
), approval as (
    select policy, avg(up) as share, var_samp(up) / count(*) as variance
    from people group by policy having count(person) >= %(min_people)s
)
select
    (select jsonb_object_agg(outcome, number) from (
        select outcome, count(*) as number from rounds where project = %(project)s group by outcome
    ) as counted) as rounds,
    (select extract(epoch from ended_at - started_at)::float8 from rounds
        where project = %(project)s and outcome <> 'running' order by id desc limit 1) as seconds,
    (select count(*) from training_examples where project = %(project)s and superseded_by is null
        and first_policy is null) as unlearned,
    (select percentile_cont(0.5) within group (order by extract(epoch from p.since - e.created_at))::float8
        from (select id, coalesce(live_at, inherited_at) as since from policies
            where project = %(project)s) as p
        cross join lateral (
            select created_at from training_examples where project = %(project)s and first_policy = p.id
            offset 0
        ) as e
        where p.since > now() - interval '1 hour') as feedback_to_live,
    (select jsonb_object_agg(policy, jsonb_build_object('ups', ups, 'downs', downs)) from (
        select policy, sum(up) as ups, sum(1 - up) as downs from thumbs group by policy
    ) as counted) as thumbs,
    (select jsonb_object_agg(name, (mine.share - theirs.share) / sqrt(mine.variance + theirs.variance))
        from routes, lateral (values ('base', %(base)s), ('previous', previous)) as against (name, policy),
            approval as mine, approval as theirs
        where project = %(project)s and mine.policy = live and theirs.policy = against.policy
            and live <> against.policy) as approval_z,
    (select count(*) from dead_letters) as dead_letters,
    (select count(*) from blocked_partitions) as blocked_partitions
"""


def training_metrics(url: str, project: str) -> DatabaseMetrics:
    """Returns the collector of the metrics of a project, in the database at `url`."""
    parameters = {"project": project, "judge": JUDGE, "base": BASE, "min_people": MIN_PEOPLE}
    return DatabaseMetrics(url, _QUERY.format(person=person_of("t", "e")), parameters, _metrics)


def _metrics(row: DictRow) -> Iterator[Metric]:
    rounds = CounterMetricFamily("hearken_rounds", "Training rounds ended.", labels=["outcome"])
    for outcome in _OUTCOMES:
        rounds.add_metric([outcome], (row["rounds"] or {}).get(outcome, 0))
    yield rounds
    thumbs = GaugeMetricFamily(
        "hearken_thumbs",
        "People's active thumbs of the last day, by the policy of the reply.",
        labels=["policy", "value"],
    )
    for policy, counted in (row["thumbs"] or {}).items():
        thumbs.add_metric([policy, "up"], counted["ups"])
        thumbs.add_metric([policy, "down"], counted["downs"])
    yield thumbs
    approval = GaugeMetricFamily(
        "hearken_approval_z",
        "Z-score of the difference in people's approval between the live policy and the base, or the policy"
        f" before it: thumbs of the last day, once {MIN_PEOPLE} people have voted on each.",
        labels=["against"],
    )
    for against, z in (row["approval_z"] or {}).items():
        approval.add_metric([against], z)
    yield from with_old_name(approval, "hearken_approval_lead")
    yield GaugeMetricFamily(
        "hearken_votes_unlearned", "Active votes that no policy has learned from.", row["unlearned"]
    )
    yield GaugeMetricFamily(
        "hearken_round_last_seconds", "Duration of the last round, seconds.", row["seconds"]
    )
    feedback_to_live = GaugeMetricFamily(
        "hearken_feedback_to_live_seconds",
        "Time from a vote until a policy that learned from it is live: median of the last hour, seconds.",
        row["feedback_to_live"],
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
