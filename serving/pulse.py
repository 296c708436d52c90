"""The pulse of the loop behind serving: whether anybody works on what waits, and for how long it has waited.

Serving shows it although others do the work, as it is there when they are not. It is asked of Postgres at
each scrape; what is not part of an installation (a broker, promotion by itself) has no samples.
"""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from psycopg.rows import DictRow

from schemas import lock_ids
from schemas.database_metrics import DatabaseMetrics
from schemas.feedback import JUDGE
from schemas.settings import Settings

_PULSE = """
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
        order by xid, id limit 1), 0)::float8 as unpublished,
    coalesce((select extract(epoch from now() - min(created_at)) from (
        select created_at from feedback
        where project = %(project)s and type <> 'signal' and not starts_with(rater, %(judge)s)
            and superseded_by is null and retracted_at is null
            and created_at > coalesce((select max(started_at) from rounds
                where project = %(project)s and outcome in ('published', 'skipped')), '-infinity')
        order by created_at limit %(enough)s
    ) as waiting having count(*) = %(enough)s), 0)::float8 as unlearned,
    coalesce((select extract(epoch from now() - min(created_at)) from policies
        where state = 'published'), 0)::float8 as unpromoted
"""


def pulse(settings: Settings) -> DatabaseMetrics:
    """Votes wait once there are as many as start a round; fewer may wait as long as they are few."""
    parameters = {
        "trainer": lock_ids.TRAINER,
        "relay": lock_ids.RELAY,
        "project": settings.project,
        "judge": JUDGE,
        "enough": max(settings.trainer.round_votes, settings.trainer.min_votes),
    }

    def metrics(row: DictRow) -> Iterator[Metric]:
        broker = bool(settings.kafka.servers)
        direct = settings.serving.promotion == "direct"
        yield GaugeMetricFamily("hearken_trainer_active", "1 while a trainer works.", row["trainer"])
        yield GaugeMetricFamily(
            "hearken_relay_active", "1 while a relay works.", row["relay"] if broker else None
        )
        yield GaugeMetricFamily(
            "hearken_relay_oldest_seconds",
            "Age of the oldest event in the outbox that the broker has not, seconds.",
            row["unpublished"] if broker else None,
        )
        yield GaugeMetricFamily(
            "hearken_votes_waiting_seconds",
            "Age of the oldest vote since the last round that published or had nothing to learn from; 0 while"
            " they are fewer than start a round.",
            row["unlearned"],
        )
        yield GaugeMetricFamily(
            "hearken_promotion_waiting_seconds",
            "Age of the oldest published policy that is to go live by itself and did not yet, seconds.",
            row["unpromoted"] if direct else None,
        )

    return DatabaseMetrics(settings.database_url or "", _PULSE, parameters, metrics)
