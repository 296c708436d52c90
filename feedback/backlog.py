"""The relay exports how many events it has yet to publish, and how many the outbox keeps."""

from collections.abc import Iterator
from typing import LiteralString

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from psycopg.rows import DictRow

from schemas.database_metrics import DatabaseMetrics

_BACKLOG: LiteralString = """
with passed as (
    select partition, split_part(position, ':', 2)::bigint as next_offset from consumer_offsets
    where log = 'kafka' and split_part(position, ':', 1)::integer
        = (select max(generation) from generations where topic = %(topic)s)
)
select (select count(*) from (
        select from outbox where "offset" is null limit %(most)s
    ) as waiting) as unpublished,
    coalesce((select sum("offset" - oldest + 1) from published_outbox), 0)::bigint as kept,
    coalesce((select sum(highest) from (
        select max(next_offset) as highest from (
            select partition, "offset" + 1 as next_offset from published_outbox
            union all select partition, next_offset from passed
        ) as known group by partition
    ) as partitions), 0)::bigint as published,
    greatest((select count(*) from generations where topic = %(topic)s) - 1, 0) as anew
"""
_MOST_COUNTED = 1_000_000
"""Unpublished events that are counted; a longer backlog shows as this number."""


def backlog(url: str, topic: str) -> DatabaseMetrics:
    """Returns the relay's metrics, read from the database at `url`."""
    return DatabaseMetrics(url, _BACKLOG, {"topic": topic, "most": _MOST_COUNTED}, _metrics)


def _metrics(row: DictRow) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "hearken_relay_unpublished", "Events in the outbox that are not published yet.", row["unpublished"]
    )
    yield GaugeMetricFamily(
        "hearken_relay_kept", "Events published and not yet passed by every consumer.", row["kept"]
    )
    yield CounterMetricFamily(
        "hearken_relay_published", "Events published since the topic began.", row["published"]
    )
    yield GaugeMetricFamily(
        "hearken_relay_generations", "Times that the topic started again from nothing.", row["anew"]
    )
