"""The relay exports how many events it has yet to publish, and how many the outbox keeps."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from psycopg.rows import DictRow

from schemas.database_metrics import DatabaseMetrics

_BACKLOG = """
select count(*) filter (where "offset" is null) as unpublished,
    count(*) filter (where "offset" is not null) as kept,
    coalesce((select sum(highest) from (
        select max(next_offset) as highest from (
            select partition, "offset" + 1 as next_offset from outbox where "offset" is not null
            union all
            select partition, split_part(position, ':', 2)::bigint from consumer_offsets
            where log = 'kafka' and split_part(position, ':', 1)::integer
                = (select max(generation) from generations where topic = %(topic)s)
        ) as known group by partition
    ) as partitions), 0)::bigint as published,
    greatest((select count(*) from generations where topic = %(topic)s) - 1, 0) as anew
from outbox
"""


def backlog(url: str, topic: str) -> DatabaseMetrics:
    """Returns the relay's metrics, read from the database at `url`."""
    return DatabaseMetrics(url, _BACKLOG, {"topic": topic}, _metrics)


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
