"""How learning goes: what an operator watches of the trainer."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from psycopg.rows import DictRow

from schemas.figures import Figures, Metric

_OUTCOMES = ("published", "rejected", "skipped", "failed")

_PROGRESS = """
select
    (select jsonb_object_agg(outcome, number) from (
        select outcome, count(*) as number from rounds where project = %(project)s group by outcome
    ) as counted) as rounds,
    (select extract(epoch from ended_at - started_at)::float8 from rounds
        where project = %(project)s and outcome <> 'running' order by id desc limit 1) as seconds,
    (select count(*) from examples where project = %(project)s and ended_by is null
        and first_policy is null) as unlearned,
    (select percentile_cont(0.5) within group (order by extract(epoch from p.live_at - e.created_at))::float8
        from policies p join examples e on e.project = p.project and e.first_policy = p.id
        where p.project = %(project)s and p.live_at > now() - interval '1 hour') as freshness,
    (select jsonb_object_agg(policy, jsonb_build_object('ups', ups, 'downs', downs)) from (
        select r.policy, count(*) filter (where e.value ->> 'value' = 'up') as ups,
            count(*) filter (where e.value ->> 'value' = 'down') as downs
        from examples e join replies r on r.turn_id = e.turn_id and r.choice = e.choice
        where e.project = %(project)s and e.type = 'thumb' and e.ended_by is null
            and e.created_at > now() - interval '1 day'
        group by r.policy
    ) as judged) as thumbs,
    (select count(*) from dead_letters) as unreadable,
    (select count(*) from waiting) as waiting
"""


def progress(url: str, project: str) -> Figures:
    return Figures(url, _PROGRESS, {"project": project}, _metrics)


def _metrics(row: DictRow) -> Iterator[Metric]:
    rounds = CounterMetricFamily("hearken_rounds", "Training rounds ended.", labels=["outcome"])
    for outcome in _OUTCOMES:
        rounds.add_metric([outcome], (row["rounds"] or {}).get(outcome, 0))
    yield rounds
    thumbs = GaugeMetricFamily(
        "hearken_thumbs",
        "Standing thumbs of the last day, by the policy they judge.",
        labels=["policy", "value"],
    )
    for policy, counted in (row["thumbs"] or {}).items():
        thumbs.add_metric([policy, "up"], counted["ups"])
        thumbs.add_metric([policy, "down"], counted["downs"])
    yield thumbs
    yield GaugeMetricFamily(
        "hearken_votes_unlearned", "Standing votes that no policy has learned from.", row["unlearned"]
    )
    yield GaugeMetricFamily("hearken_log_unreadable", "Entries of the log set aside.", row["unreadable"])
    yield GaugeMetricFamily(
        "hearken_log_waiting", "Partitions whose next event only a newer trainer can read.", row["waiting"]
    )
    if row["seconds"] is not None:
        yield GaugeMetricFamily(
            "hearken_round_last_seconds", "How long the last round took, seconds.", row["seconds"]
        )
    if row["freshness"] is not None:
        yield GaugeMetricFamily(
            "hearken_freshness_seconds",
            "From a vote to a live policy that learned from it: median of the last hour, seconds.",
            row["freshness"],
        )
