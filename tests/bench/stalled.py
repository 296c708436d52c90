"""Promotions while clients do not read: `python -m tests.bench.stalled`.

Twenty clients ask for replies with many log-probabilities and never read them, spread over the policies that
go live meanwhile, so each holds the adapter that answers it. Promised: a published policy is live within 5 s.
About two minutes.
"""

import json
import socket
import statistics
import sys
import time
from urllib.parse import urlsplit

import torch

from deploy.local.postgres import database
from schemas.database import open_pool
from schemas.policies import BASE
from schemas.settings import load
from tests.bench.service import hearken_up
from tests.bench.swaps import register, wait_until_live, write_random
from tests.installation import ADMIN_KEY, Installation
from tests.unlimited import UNLIMITED_ENVIRONMENT
from trainer.model.backbone import Backbone
from trainer.starter import MODEL_DIR

CLIENTS = 20
SWAPS = 12
TARGET = 5.0
"""Seconds from the registration of a policy until it is live."""


def stalled_client(url: str) -> socket.socket:
    """Returns a connection whose reply waits to be read."""
    parts = urlsplit(url)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    client.connect((parts.hostname, parts.port))
    ask = {"role": "user", "content": "Tell me about the sea."}
    body = json.dumps(
        {"model": "default", "messages": [ask], "n": 8, "stream": True, "logprobs": True, "top_logprobs": 20}
    ).encode()
    client.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: hearken\r\nContent-Type: application/json\r\n"
        + f"Authorization: Bearer {ADMIN_KEY}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    return client


def in_flight(service: Installation) -> float:
    with service.client() as client:
        lines = client.get("/metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("hearken_requests_in_flight ")))


def main() -> int:
    torch.set_num_threads(1)
    seconds: list[float] = []
    clients: list[socket.socket] = []
    with hearken_up(**UNLIMITED_ENVIRONMENT) as service:
        service.run("pause")
        settings = load(data_dir=service.data_dir, model=str(MODEL_DIR))
        backbone, parent = Backbone(MODEL_DIR, settings.trainer.rl), BASE
        with database(settings) as database_url, open_pool(database_url) as pool:
            for number in range(1, SWAPS + 1):
                clients += [stalled_client(service.url) for _ in range(-(-CLIENTS // SWAPS))]
                time.sleep(2)
                stalled = in_flight(service)
                manifest = write_random(backbone, settings, number, parent)
                register(settings, pool, manifest)
                parent = manifest.id
                seconds.append(wait_until_live(pool, parent))
                print(
                    f"{parent} live after {seconds[-1]:.2f} s, {stalled:.0f} requests in flight", flush=True
                )
        for client in clients:
            client.close()
    worst, median = max(seconds), statistics.median(seconds)
    print(f"{SWAPS} promotions: median {median:.2f} s, worst {worst:.2f} s")
    print(json.dumps({"median": median, "worst": worst}))
    return 0 if worst <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
