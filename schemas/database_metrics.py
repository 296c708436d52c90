"""Prometheus collects these metrics from Postgres, so they stay true while a process hangs."""

import time
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from typing import LiteralString

import psycopg
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from psycopg.rows import DictRow

from schemas.database import connect

SCRAPE_TIMEOUT = 4.0
"""Seconds for the database to answer: a scrape gives up after ten, and may need two answers."""

PROJECTS_SECONDS = 30.0
"""Seconds for which the figures of all projects are shown again: every replica and trainer is scraped for
them, and a thousand projects take Postgres a good part of a second."""

RowMetrics = Callable[[DictRow], Iterator[Metric]]


class DatabaseMetrics(Collector):
    """A collector over the rows of `query` on the database at `url`; `metrics` makes metrics of each row.
    There are none while the database is unavailable, or so slow that a scrape would not wait for it. Scrapes
    within `seconds` share an answer."""

    def __init__(
        self,
        url: str,
        query: LiteralString,
        parameters: Mapping[str, object],
        metrics: RowMetrics,
        *,
        seconds: float = 0.0,
    ) -> None:
        self._url = url
        self._query = query
        self._parameters = parameters
        self.metrics = metrics
        self._seconds = seconds
        self._asked = float("-inf")
        self._rows: list[DictRow] = []

    def describe(self) -> list[Metric]:
        """Returns nothing: the registry need not ask the database for names."""
        return []

    def collect(self) -> Iterator[Metric]:
        if time.monotonic() - self._asked >= self._seconds:
            self._rows = self._fetch()
            self._asked = time.monotonic()
        for row in self._rows:
            yield from self.metrics(row)

    def _fetch(self) -> list[DictRow]:
        try:
            with connect(self._url, timeout=3, statement_timeout=SCRAPE_TIMEOUT) as connection:
                return connection.execute(self._query, self._parameters).fetchall()
        except psycopg.OperationalError:
            return []


def with_old_name(metric: Metric, old: str) -> Iterator[Metric]:
    """Yields a renamed metric, then its samples under the name that it had in the release before."""
    yield metric
    deprecated = copy(metric)
    deprecated.name, deprecated.documentation = old, f"Deprecated: use {metric.name}."
    deprecated.samples = [
        sample._replace(name=old + sample.name.removeprefix(metric.name)) for sample in metric.samples
    ]
    yield deprecated


def serve_metrics(host: str, port: int, *collectors: Collector) -> None:
    """Serve `/metrics` at `host`:`port`, in a thread that ends with the process."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    start_http_server(port, addr=host, registry=registry)
