"""What a process without an API of its own shows to Prometheus: figures asked of Postgres at each scrape, so
that they are true even while the process itself is stuck."""

from collections.abc import Callable, Iterator, Mapping
from typing import LiteralString

import psycopg
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from psycopg.rows import DictRow

from schemas.database import connect

SCRAPE = 5.0
"""Seconds for the database to tell: later, nobody listens any more."""

Metric = GaugeMetricFamily | CounterMetricFamily
Reading = Callable[[DictRow], Iterator[Metric]]


class Figures(Collector):
    """Rows of `query` on the database at `url`, each made into metrics by `reading`; none while the database
    is away, or so slow that a scrape would not wait for it."""

    def __init__(
        self, url: str, query: LiteralString, parameters: Mapping[str, object], reading: Reading
    ) -> None:
        self._url = url
        self._query = query
        self._parameters = parameters
        self._reading = reading

    def describe(self) -> list[Metric]:
        """Nothing: the registry need not ask the database to know what there will be."""
        return []

    def collect(self) -> Iterator[Metric]:
        try:
            with connect(self._url, timeout=3, statement_timeout=SCRAPE) as connection:
                rows = connection.execute(self._query, self._parameters).fetchall()
        except psycopg.OperationalError:
            return
        for row in rows:
            yield from self._reading(row)


def show(host: str, port: int, *collectors: Collector) -> None:
    """`/metrics` at `host`:`port`, in a thread that ends with the process."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    start_http_server(port, addr=host, registry=registry)
