"""Loop metrics show whether a trainer and a relay are active, and how long votes and policies have waited.

Serving exports them for the other processes, since it runs when those do not. Each scrape queries Postgres.
Parts that an installation does not have (a broker, direct promotion) have no samples.
"""

from collections.abc import Iterator
from typing import Any, LiteralString

from prometheus_client.core import GaugeMetricFamily, Metric
from psycopg.rows import DictRow

from schemas import lock_ids
from schemas.database_metrics import DatabaseMetrics, with_old_name
from schemas.feedback import JUDGE
from schemas.settings import Settings

LOOP: LiteralString = """
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
        select created_at from feedback f
        where project = %(project)s and type <> 'signal' and not starts_with(rater, %(judge)s)
            and superseded_by is null and retracted_at is null and not exists (
                select from quarantine q
                where q.project = f.project and q.rater = f.rater and q.state <> 'accepted'
            )
            and created_at > coalesce((select max(started_at) from rounds
                where project = %(project)s and outcome in ('published', 'skipped')), '-infinity')
        order by created_at limit %(enough)s
    ) as waiting having count(*) = %(enough)s), 0)::float8 as unlearned,
    coalesce((select extract(epoch from now() - min(w.created_at)) from policies w
        join projects p on p.id = w.project and coalesce(p.promotion, %(promotion)s) = 'direct'
        where w.project = %(project)s and w.state = 'published'
            and w.gate ->> 'outcome' is distinct from 'unknown'), 0)::float8 as unpromoted,
    (select coalesce(promotion, %(promotion)s) = 'direct' from projects where id = %(project)s) as direct,
    (select count(*) from quarantine where project = %(project)s and state = 'held')::int as held_raters,
    (select count(*) from (
        select from quarantine q join feedback f on f.project = q.project and f.rater = q.rater
        where q.project = %(project)s and q.state = 'held' limit %(held)s
    ) as of_held)::int as held_votes
"""

MOST_HELD_VOTES = 10_000
"""Votes of held raters that are counted."""


def parameters(settings: Settings, project: str) -> dict[str, Any]:
    """Returns the values of LOOP. Votes count as waiting once there are as many as start a round."""
    return {
        "trainer": lock_ids.TRAINER,
        "relay": lock_ids.RELAY,
        "project": project,
        "judge": JUDGE,
        "promotion": settings.serving.promotion,
        "enough": max(settings.trainer.round_votes, settings.trainer.min_votes),
        "held": MOST_HELD_VOTES,
    }


def loop_metrics(settings: Settings) -> DatabaseMetrics:
    """Returns the collector of the project of the settings."""

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
        yield GaugeMetricFamily(
            "hearken_votes_waiting_seconds",
            "Age of the oldest vote since the last round that published or was skipped, seconds; 0 while the"
            " votes are fewer than start a round.",
            row["unlearned"],
        )
        yield GaugeMetricFamily(
            "hearken_promotion_waiting_seconds",
            "Age of the oldest published policy that awaits its direct promotion, seconds.",
            row["unpromoted"] if row["direct"] else None,
        )
        yield GaugeMetricFamily(
            "hearken_raters_held", "Raters in quarantine that nobody has decided on.", row["held_raters"]
        )
        yield GaugeMetricFamily(
            "hearken_votes_held",
            f"Votes of these raters, which do not teach, counted up to {MOST_HELD_VOTES:,}.",
            row["held_votes"],
        )

    return DatabaseMetrics(settings.database_url or "", LOOP, parameters(settings, settings.project), metrics)
