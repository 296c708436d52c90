"""Chats and votes while Postgres is away: `python -m tests.bench.outage`.

Clients chat and vote without a pause before, during and after an outage of `--seconds`, in which the
database takes no connections. Promised: no vote that was acknowledged is lost, whether it was recorded (201)
or spooled (202), and each is recorded under the id that was returned. About three minutes.
"""

import argparse
import json
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx
import psycopg

from tests.bench.service import hearken_up
from tests.installation import Installation, wait
from tests.unlimited import UNLIMITED_ENVIRONMENT

CLIENTS = 8
AROUND = 10.0
"""Seconds of load before and after the outage."""


@dataclass(slots=True)
class Load:
    """What the clients saw: acknowledged votes by id, statuses of chats and votes, the longest wait."""

    over: threading.Event = field(default_factory=threading.Event)
    acknowledged: set[str] = field(default_factory=set)
    chats: Counter[int] = field(default_factory=Counter)
    votes: Counter[int] = field(default_factory=Counter)
    longest: float = 0.0

    def run(self, service: Installation) -> None:
        with service.client() as client:
            while not self.over.is_set():
                body = {"model": "default", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
                reply = self._post(client, "/v1/chat/completions", body, self.chats)
                if reply.status_code != 200:
                    continue
                vote = {"completion_id": reply.json()["id"], "type": "thumb", "value": "up"}
                answer = self._post(client, "/v1/feedback", vote, self.votes)
                if answer.status_code in (201, 202):
                    self.acknowledged.add(answer.json()["id"])

    def _post(
        self, client: httpx.Client, path: str, body: dict[str, object], statuses: Counter[int]
    ) -> httpx.Response:
        began = time.monotonic()
        answer = client.post(path, json=body)
        self.longest = max(self.longest, time.monotonic() - began)
        statuses[answer.status_code] += 1
        return answer


def outage(url: str, seconds: float) -> None:
    """Lets the database of `url` take no connections for so long."""
    database = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    with psycopg.connect(url, dbname="template1", autocommit=True) as connection:
        connection.execute(f'alter database "{database}" with allow_connections false'.encode())
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [database]
        )
        time.sleep(seconds)
        connection.execute(f'alter database "{database}" with allow_connections true'.encode())


def spooled(service: Installation) -> float:
    with service.client() as client:
        lines = client.get("/metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("hearken_spooled_bytes ")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120)
    seconds = parser.parse_args().seconds
    load = Load()
    with hearken_up(**UNLIMITED_ENVIRONMENT) as service:
        service.run("pause")
        clients = [threading.Thread(target=load.run, args=[service]) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        time.sleep(AROUND)
        outage(service.database_url(), seconds)
        back = time.monotonic()
        time.sleep(AROUND)
        load.over.set()
        for client in clients:
            client.join()
        wait(lambda: spooled(service) == 0, "the spool is empty", 120)
        drained = time.monotonic() - back
        with psycopg.connect(service.database_url()) as connection:
            stored = {row[0] for row in connection.execute("select id from feedback").fetchall()}
    lost = load.acknowledged - stored
    print(f"chats {dict(load.chats)}, votes {dict(load.votes)}, longest request {load.longest:.1f} s")
    print(f"{len(load.acknowledged)} votes acknowledged, {len(lost)} lost; drained after {drained:.1f} s")
    print(json.dumps({"acknowledged": len(load.acknowledged), "lost": len(lost), "longest": load.longest}))
    return 1 if lost or not load.votes[202] else 0


if __name__ == "__main__":
    sys.exit(main())
