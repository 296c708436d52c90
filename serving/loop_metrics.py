"""Loop metrics show whether a trainer and a relay are active, and how long votes and policies have waited.

Serving exports them for the other processes, since it runs when those do not, from Postgres. Parts that
an installation does not have (a broker, direct promotion) have no samples, nor have projects in which nothing
waits, the installation's own aside: replicas times projects would be many samples.
"""

from collections.abc import Iterator
from typing import Any, LiteralString

from prometheus_client.core import GaugeMetricFamily, Metric
from psycopg.rows import DictRow

from schemas import lock_ids
from schemas.database_metrics import PROJECTS_SECONDS, DatabaseMetrics, with_old_name
from schemas.feedback import JUDGE
from schemas.projects import MOST_PROJECTS
from schemas.settings import Settings

PROCESSES: LiteralString = """
with held as (
    select classid::bigint as high, objid::bigint as low, objsubid from pg_locks
    where locktype = 'advisory' and granted
        and database = (select oid from pg_database where datname = current_database())
)
select
    exists (select from held where objsubid = 2 and high = %(trainer)s
        and low = hashtext(%(project)s)::bigint & 4294967295)::int as trainer,
    exists (select from held where objsubid = 1 and high = 0 and low = %(relay)s)::int as relay,
    coalesce((select extract(epoch from now() - created_at) from outbox where "offset" is null
        order by xid, id limit 1), 0)::float8 as unpublished
"""

# Of each project, the oldest votes since its last round are read, up to a limit, whatever kind they are.
WAITING: LiteralString = """
select p.id as project, p.direct,
    coalesce((select extract(epoch from now() - min(created_at)) from (
        select created_at from (
            select * from feedback
            where project = p.id and created_at > coalesce((select max(started_at) from rounds
                where project = p.id and outcome in ('published', 'skipped')), '-infinity')
            order by created_at limit %(most)s
        ) as f
        where type <> 'signal' and not starts_with(rater, %(judge)s)
            and superseded_by is null and retracted_at is null and not exists (
                select from quarantine q
                where q.project = f.project and q.rater = f.rater and q.state <> 'accepted'
            )
        order by created_at limit %(enough)s
    ) as waiting having count(*) = %(enough)s), 0)::float8 as unlearned,
    case when p.direct then coalesce((
        select extract(epoch from now() - min(created_at)) from policies
        where project = p.id and state = 'published' and gate ->> 'outcome' is distinct from 'unknown'
    ), 0) else 0 end::float8 as unpromoted,
    (select count(*) from (
        select from quarantine where project = p.id and state = 'held' limit %(most)s
    ) as held)::int as held_raters,
    (select count(*) from (
        select from quarantine q join feedback f on f.project = q.project and f.rater = q.rater
        where q.project = p.id and q.state = 'held' limit %(most)s
    ) as of_held)::int as held_votes
from (
    select id, coalesce(promotion, %(promotion)s) = 'direct' as direct from projects
    order by id <> %(project)s, id limit %(projects)s
) as p
"""

_METRICS: LiteralString = """
with waiting as materialized ({waiting})
select processes.*, (
    select jsonb_object_agg(project, to_jsonb(waiting)) from waiting
    where project = %(project)s or greatest(unlearned, unpromoted, held_raters) > 0
) as projects
from ({processes}) as processes
"""

MOST_COUNTED = 10_000
"""Held raters, and their votes, that are counted in a project, and votes that are looked at."""


def parameters(settings: Settings, project: str) -> dict[str, Any]:
    """Returns the values of PROCESSES, and of WAITING for this one project. Votes count as waiting once there
    are as many as start a round."""
    return {
        "trainer": lock_ids.TRAINER,
        "relay": lock_ids.RELAY,
        "project": project,
        "projects": 1,
        "judge": JUDGE,
        "promotion": settings.serving.promotion,
        "enough": max(settings.trainer.round_votes, settings.trainer.min_votes),
        "most": MOST_COUNTED,
    }


def loop_metrics(settings: Settings) -> DatabaseMetrics:
    """Returns the collector of the settings' project and, where something waits, of the others."""

    def metrics(row: DictRow) -> Iterator[Metric]:
        broker = bool(settings.kafka.servers)
        yield GaugeMetricFamily("hearken_trainer_active", "1 while a trainer is active.", row["trainer"])
        yield GaugeMetricFamily(
            "hearken_relay_active", "1 while a relay is active.", row["relay"] if broker else None
        )
        lag = GaugeMetricFamily(
            "hearken_relay_lag_seconds",
            "Age of the oldest event in the outbox that the broker does not have, seconds.",
            row["unpublished"] if broker else None,
        )
        yield from with_old_name(lag, "hearken_relay_oldest_seconds")
        yield from _waiting(row["projects"] or {})

    url, query = settings.database_url or "", _METRICS.format(waiting=WAITING, processes=PROCESSES)
    values = parameters(settings, settings.project) | {"projects": MOST_PROJECTS}
    return DatabaseMetrics(url, query, values, metrics, seconds=PROJECTS_SECONDS)


def _waiting(projects: dict[str, Any]) -> Iterator[Metric]:
    """Yields what waits in each project, by its name."""
    label = ["project"]
    unlearned = GaugeMetricFamily(
        "hearken_votes_waiting_seconds",
        "Age of the oldest vote since the last round that published or was skipped, seconds; 0 while the"
        " votes are fewer than start a round.",
        labels=label,
    )
    unpromoted = GaugeMetricFamily(
        "hearken_promotion_waiting_seconds",
        "Age of the oldest published policy that awaits its direct promotion, seconds.",
        labels=label,
    )
    raters = GaugeMetricFamily(
        "hearken_raters_held",
        f"Raters in quarantine that nobody has decided on, counted up to {MOST_COUNTED:,}.",
        labels=label,
    )
    votes = GaugeMetricFamily(
        "hearken_votes_held",
        f"Votes of these raters, which do not teach, counted up to {MOST_COUNTED:,}.",
        labels=label,
    )
    for project, waiting in projects.items():
        unlearned.add_metric([project], waiting["unlearned"])
        if waiting["direct"]:
            unpromoted.add_metric([project], waiting["unpromoted"])
        raters.add_metric([project], waiting["held_raters"])
        votes.add_metric([project], waiting["held_votes"])
    yield from (unlearned, unpromoted, raters, votes)
