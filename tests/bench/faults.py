"""This bench injects a thousand faults under load: `python -m tests.bench.faults [vllm] [FAULTS] [SEED]`.

It kills (SIGKILL) or pauses the processes of a `hearken up` with a broker and a second serving, trainer and
relay, at random times, while clients chat and vote; then the audit compares their answers with the state of
the system (`tests.faults`). With `vllm`, two vLLM servers replace the embedded engine and are hit too.
Targets: nothing acknowledged is lost, repeated or reordered; chats and votes recover within 10 s at p95, over
all faults and over those of processes they need (of faults in quick succession, the last one counts); a vLLM
server is back in rotation within 60 s while the other one serves; training continues. About an hour, and less
with vLLM, where faults come faster.
"""

import json
import random
import sys
import threading
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from schemas.settings import KafkaSettings
from tests import faults
from tests.bench.replicas import Server, in_rotation, servers
from tests.broker import Broker
from tests.crowd import Crowd
from tests.installation import Installation
from tests.second_replica import SecondReplica

FAULTS = 1_000
SEED = 11
BETWEEN = (0.3, 2.0)  # seconds between faults; shorter, since another engine serves while one starts


class Fleet:
    """vLLM servers of which at most one is down, and is then hit again. `back` lists the seconds from the
    last kill until all were in rotation again."""

    def __init__(self, found: list[Server], installation: Installation) -> None:
        self.servers = found
        self.installation = installation
        self.back: list[float] = []
        self._down: Server | None = None
        self._kills = 0

    def inject(self, what: str, chance: random.Random) -> float:
        server = self._down or chance.choice(self.servers)
        if what == "pause":
            return faults.pause(server.family(), chance)
        self._down = server
        self._kills += 1
        server.kill()
        began = time.monotonic()
        server.start()
        threading.Thread(target=self._watch, args=[server, self._kills, began], daemon=True).start()
        return began

    def _watch(self, server: Server, kill: int, began: float) -> None:
        while not (server.ready() and self._complete()):
            time.sleep(0.5)
        if kill == self._kills:
            self.back.append(time.monotonic() - began)
            self._down = None

    def _complete(self) -> bool:
        try:
            return in_rotation(self.installation.url) == len(self.servers)
        except httpx.HTTPError:
            return False


def main() -> int:
    words = sys.argv[1:]
    with_vllm = words[:1] == ["vllm"]
    numbers = [int(word) for word in words[with_vllm:]]
    wanted, seed = numbers + [FAULTS, SEED][len(numbers) :]
    broker = Broker()
    broker.start()
    try:
        with ExitStack() as stack:
            data_dir = Path(stack.enter_context(TemporaryDirectory(prefix="hearken-bench-"))).resolve()
            settings = {"HEARKEN_KAFKA__SERVERS": json.dumps([broker.address]), **faults.SETTINGS}
            found = stack.enter_context(servers(2)) if with_vllm else []
            if found:
                settings["HEARKEN_VLLM__URLS"] = json.dumps([server.url for server in found])
            installation = stack.enter_context(Installation(data_dir, **settings))
            replica = stack.enter_context(SecondReplica(installation))
            fleet = Fleet(found, installation)
            victims = faults.victims(installation, replica, broker)
            if found:
                del victims["engine"]
                victims["vllm"] = fleet.inject
            between = BETWEEN if found else faults.BETWEEN
            crowd = Crowd(installation, replica.url, kafka=KafkaSettings(servers=[broker.address]))
            report = faults.run(crowd, victims, wanted, seed, partial(print, flush=True), between)
            policy = faults.policies_after(installation, data_dir)
    finally:
        broker.kill()
    replicas = [round(seconds, 1) for seconds in sorted(fleet.back)]
    print(report.table())
    print(f"{report.acknowledged} answers to votes; {report.problems or 'no problems'}; then {policy}")
    print(f"servers back in rotation after, seconds: {replicas}")
    back = {
        asked: [round(report.undisturbed_recovery(0.95, asked, of), 1) for of in (victims, needed)]
        for asked, needed in faults.NEEDED.items()
    }
    print(
        json.dumps(
            {
                "faults": len(report.faults),
                "acknowledged": report.acknowledged,
                "p95": back,
                "replicas": replicas,
            }
        )
    )
    slowest = replicas[int(0.95 * len(replicas))] if replicas else 0.0
    return 0 if not report.problems and max(map(max, back.values())) <= 10 and slowest <= 60 else 1


if __name__ == "__main__":
    sys.exit(main())
