"""These helpers scrape metrics that are read from Postgres, as Prometheus does."""

import httpx

from deploy.local.ports import free_port
from schemas import database_metrics


def page(*collectors: database_metrics.DatabaseMetrics) -> str:
    """Returns the text of a real scrape."""
    port = free_port()
    database_metrics.serve_metrics("127.0.0.1", port, *collectors)
    return httpx.get(f"http://127.0.0.1:{port}/metrics").text


def shown(*collectors: database_metrics.DatabaseMetrics) -> dict[str, float]:
    """Returns the value of each sample."""
    lines = page(*collectors).splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}
