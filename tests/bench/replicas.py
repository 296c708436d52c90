"""vLLM servers of a bench's own, each a process as `hearken up --engine vllm` runs it, with the starter."""

import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx
import psutil

from deploy.local import vllm
from deploy.local.ports import free_port
from schemas.settings import EngineSettings, Settings, VllmSettings
from trainer.starter import MODEL_DIR

STREAMS = 16
CACHE_PROMPTS = 500  # twice what fills the cache of a server with 1 GiB for it
_PATIENCE = 180.0


class Server:
    """One vLLM server, on the same port every time it starts."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        settings = Settings(
            model=str(MODEL_DIR),
            engine=EngineSettings(kind="vllm", max_streams=STREAMS),
            vllm=VllmSettings(eager=True),
        )
        self.process = psutil.Popen(
            [sys.executable, "-m", *vllm.command(settings, self.port)],
            env={**os.environ, **vllm.environment(settings)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def wait_until_ready(self) -> None:
        """Raises RuntimeError when it ends instead, or takes too long."""
        deadline = time.monotonic() + _PATIENCE
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("vLLM did not become ready")
            time.sleep(0.1)

    def fill_cache(self) -> None:
        """Use all of the cache, which takes its memory when it is first used."""
        chance = random.Random(0)
        bodies = [
            {"model": "p0", "prompt": chance.choices(range(5, 1_000), k=200), "max_tokens": 1}
            for _ in range(CACHE_PROMPTS)
        ]
        with httpx.Client(timeout=_PATIENCE) as client, ThreadPoolExecutor(8) as threads:
            for answer in threads.map(
                lambda body: client.post(f"{self.url}/v1/completions", json=body), bodies
            ):
                answer.raise_for_status()

    def family(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def memory(self) -> int:
        """Bytes (PSS) of the server and its workers."""
        return sum(process.memory_full_info().pss for process in self.family())

    def kill(self) -> None:
        family = self.family()
        for process in family:
            process.kill()
        psutil.wait_procs(family, timeout=10)


@contextmanager
def servers(count: int) -> Iterator[list[Server]]:
    """Ready until the end of the block."""
    with ExitStack() as stack:
        found = [Server() for _ in range(count)]
        for server in found:
            server.start()
            stack.callback(server.kill)
        for server in found:
            server.wait_until_ready()
        yield found


def in_rotation(url: str) -> int:
    """How many servers the installation at `url` sends requests to."""
    found = re.search(r"^hearken_engines_in_rotation (\S+)$", httpx.get(f"{url}/metrics").text, re.MULTILINE)
    return int(float(found[1])) if found else 0
