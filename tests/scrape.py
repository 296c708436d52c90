"""What Prometheus gets of figures that are asked of Postgres."""

import httpx

from deploy.local.ports import free_port
from schemas import figures


def page(*collectors: figures.Figures) -> str:
    """What a real scrape gets."""
    port = free_port()
    figures.show("127.0.0.1", port, *collectors)
    return httpx.get(f"http://127.0.0.1:{port}/metrics").text


def shown(*collectors: figures.Figures) -> dict[str, float]:
    """Each sample of it."""
    lines = page(*collectors).splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}
