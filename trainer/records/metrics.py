"""How learning goes: what an operator watches of the trainer."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from psycopg.rows import DictRow

from schemas.feedback import JUDGE
from schemas.figures import Figures, Metric
from schemas.policies import BASE

MIN_RATERS = 20
"""People who must have judged each of two policies before these are compared."""

_OUTCOMES = ("published", "rejected", "skipped", "failed")

# A person is one voice, however many thumbs they gave: those of one are not independent of each other. One
# voice for and one against each policy are counted beside them, so that a few who all agree leave one unsure
# (Agresti and Caffo 2000).
_PROGRESS = """
with thumbs as (
    select r.policy, e.rater, (e.value ->> 'value' = 'up')::int as up
    from training_examples e join replies r on r.turn_id = e.turn_id and r.choice = e.choice
    where e.project = %(project)s and e.type = 'thumb' and e.superseded_by is null
        and e.created_at > now() - interval '1 day' and not starts_with(e.rater, %(judge)s)
), voices as (
    select policy, rater, avg(up)::float8 as up from thumbs group by policy, rater
    union all
    select policy, null, imagined from (select distinct policy from thumbs) as judged,
        (values (0.0), (1.0)) as voice (imagined)
), approval as (
    select policy, avg(up) as share, var_samp(up) / count(*) as variance
    from voices group by policy having count(rater) >= %(min_raters)s
)
select
    (select jsonb_object_agg(outcome, number) from (
        select outcome, count(*) as number from rounds where project = %(project)s group by outcome
    ) as counted) as rounds,
    (select extract(epoch from ended_at - started_at)::float8 from rounds
        where project = %(project)s and outcome <> 'running' order by id desc limit 1) as seconds,
    (select count(*) from training_examples where project = %(project)s and superseded_by is null
        and first_policy is null) as unlearned,
    (select percentile_cont(0.5) within group (order by extract(epoch from p.live_at - e.created_at))::float8
        from policies p join training_examples e on e.project = p.project and e.first_policy = p.id
        where p.project = %(project)s and p.live_at > now() - interval '1 hour') as freshness,
    (select jsonb_object_agg(policy, jsonb_build_object('ups', ups, 'downs', downs)) from (
        select policy, sum(up) as ups, sum(1 - up) as downs from thumbs group by policy
    ) as judged) as thumbs,
    (select jsonb_object_agg(rival, (mine.share - theirs.share) / sqrt(mine.variance + theirs.variance))
        from routes, lateral (values ('base', %(base)s), ('previous', previous)) as against (rival, policy),
            approval as mine, approval as theirs
        where project = %(project)s and mine.policy = live and theirs.policy = against.policy
            and live <> against.policy) as leads,
    (select count(*) from dead_letters) as unreadable,
    (select count(*) from blocked_partitions) as waiting
"""


def training_metrics(url: str, project: str) -> Figures:
    parameters = {"project": project, "judge": JUDGE, "base": BASE, "min_raters": MIN_RATERS}
    return Figures(url, _PROGRESS, parameters, _metrics)


def _metrics(row: DictRow) -> Iterator[Metric]:
    rounds = CounterMetricFamily("hearken_rounds", "Training rounds ended.", labels=["outcome"])
    for outcome in _OUTCOMES:
        rounds.add_metric([outcome], (row["rounds"] or {}).get(outcome, 0))
    yield rounds
    thumbs = GaugeMetricFamily(
        "hearken_thumbs",
        "People's standing thumbs of the last day, by the policy they judge.",
        labels=["policy", "value"],
    )
    for policy, counted in (row["thumbs"] or {}).items():
        thumbs.add_metric([policy, "up"], counted["ups"])
        thumbs.add_metric([policy, "down"], counted["downs"])
    yield thumbs
    leads = GaugeMetricFamily(
        "hearken_approval_lead",
        "People's approval of the live policy above that of the base, or of the one before it, in standard"
        f" errors: the last day, once {MIN_RATERS} people have judged each.",
        labels=["against"],
    )
    for rival, lead in (row["leads"] or {}).items():
        leads.add_metric([rival], lead)
    yield leads
    yield GaugeMetricFamily(
        "hearken_votes_unlearned", "Standing votes that no policy has learned from.", row["unlearned"]
    )
    yield GaugeMetricFamily(
        "hearken_round_last_seconds", "How long the last round took, seconds.", row["seconds"]
    )
    yield GaugeMetricFamily(
        "hearken_freshness_seconds",
        "From a vote to a live policy that learned from it: median of the last hour, seconds.",
        row["freshness"],
    )
    yield GaugeMetricFamily("hearken_log_unreadable", "Entries of the log set aside.", row["unreadable"])
    yield GaugeMetricFamily(
        "hearken_log_waiting", "Partitions whose next event only a newer trainer can read.", row["waiting"]
    )
