"""Clients that stop reading while policies change: `python -m tests.bench.stalled`.

CLIENTS ask for long streams and read nothing of them, so that they hold the policy that answered them. Then
POLICIES are published, each as soon as the one before it answers. Promised: each answers within 5 s. A
minute.
"""

import json
import socket
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from deploy.local.postgres import database
from schemas import logs
from schemas.database import migrate
from schemas.settings import Settings
from tests.contract.engines import World, start_embedded
from tests.service import ADMIN, Service, run_service

CLIENTS = 20
POLICIES = 8
LIMIT = 5.0
_CHOICES = 8
_REQUESTS = 4
_ASK = {
    "model": "default",
    "messages": [{"role": "user", "content": "Tea?"}],
    "n": _CHOICES,
    "max_tokens": 200,
    "stream": True,
    "logprobs": True,
    "top_logprobs": 20,
}


def stall(url: str) -> socket.socket:
    """Returns a connection with a small window on which streams were asked for, of which nothing is read. One
    alone would fit into the buffers of the system."""
    address = urlsplit(url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
    connection.connect((address.hostname, address.port))
    body = json.dumps(_ASK).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {ADMIN}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection.sendall((head.encode() + body) * _REQUESTS)
    return connection


def settle(service: Service) -> None:
    """Waits until the engine has written the replies that nobody reads, for which others wait."""

    def prompt() -> bool:
        started = time.monotonic()
        service.chat(max_tokens=1)
        return time.monotonic() - started < 0.3

    service.until(prompt, seconds=60)


def promote(service: Service, number: int) -> float:
    """Publishes a policy; returns the seconds until it answers."""
    policy = f"p{number}-{number:06x}"
    service.registry.publish(policy, seed=number)
    started = time.monotonic()
    service.until(lambda: service.chat(max_tokens=1)["system_fingerprint"] == policy, seconds=60)
    return time.monotonic() - started


def main() -> int:
    logs.configure("error")
    with (
        tempfile.TemporaryDirectory() as folder,
        database(Settings(data_dir=Path(folder) / "data")) as database_url,
    ):
        migrate(database_url)
        base = World(Path(folder), "llama").base
        engine = contextmanager(start_embedded)
        with (
            engine(base, "--max-loras", "6") as url,
            run_service(
                database_url, Path(folder) / "service", base, engines=[url], max_choices=_CHOICES
            ) as service,
        ):
            stalled, seconds, waiting = [], [], []
            for number in range(1, POLICIES + 1):
                stalled += [stall(service.url) for _ in range(CLIENTS if number == 1 else 1)]
                settle(service)
                waiting.append(service.counted("hearken_requests_in_flight"))
                seconds.append(promote(service, number))
            for connection in stalled:
                connection.close()
    found = {
        "streams_in_flight": waiting,
        "seconds_to_answer": [round(each, 2) for each in seconds],
        "longest": round(max(seconds), 2),
    }
    print(json.dumps(found))
    return 0 if max(seconds) <= LIMIT and min(waiting) > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
