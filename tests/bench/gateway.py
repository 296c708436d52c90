"""What standing before an engine costs, against LiteLLM's proxy: `python -m tests.bench.gateway`.

Both stand before the same constant upstream (`upstream`), 8 connections, in turns, `ROUNDS` times; Hearken
records every turn in Postgres, the proxy records nothing. LiteLLM is installed into a folder of its own.
Promised: 6 times its requests/s for whole replies of 64 tokens, 10 times for streamed ones. Three minutes.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psycopg

from deploy.local.ports import free_port
from deploy.local.postgres import EmbeddedPostgres
from schemas.database import migrate
from schemas.policies import BASE, Probe
from schemas.settings import Settings
from tests.bench import upstream
from tests.bench.load import at, request, send
from tests.contract.engines import write_adapter
from tests.installation import ADMIN_KEY, PUBLIC_KEY, Installation
from tests.service import PROBE, Registry, write_base
from tests.unlimited import UNLIMITED_ENVIRONMENT

CONNECTIONS = 8
SECONDS = 5.0
ROUNDS = 3
LITELLM = "litellm[proxy]==1.106.2"


@contextmanager
def process(*command: str, ready: str, **environment: str) -> Iterator[None]:
    """A process until the end of the block, once `ready` (a URL) answers."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("HEARKEN_")}
    with subprocess.Popen(
        command, env=own | environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as running:
        try:
            deadline = time.monotonic() + 120
            while not _answers(ready):
                if running.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command} did not come up")
                time.sleep(0.2)
            yield
        finally:
            running.terminate()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def publish_base(settings: Settings) -> None:
    """p0, with the probe that the upstream answers."""
    constant = [upstream.LOGPROB] * (len(PROBE) - 1)
    directory = settings.policies_dir / settings.project / BASE
    directory.parent.mkdir(parents=True)
    write_adapter(Path(settings.model), directory, 0)
    (directory / "README.md").unlink(missing_ok=True)
    probe = Probe(token_ids=PROBE, logprobs=constant, base_logprobs=constant)
    Registry(settings).announce(BASE, directory, parent=None, probe=probe, state="live")


@contextmanager
def constant(*style: str) -> Iterator[int]:
    """The upstream; yields its port."""
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.upstream", str(port), *style]
    with process(*command, ready=f"http://127.0.0.1:{port}/health"):
        yield port


@contextmanager
def hearken(folder: Path, upstream_port: int) -> Iterator[tuple[int, str]]:
    """Serving before the upstream; yields its port and the database's URL."""
    postgres = EmbeddedPostgres(folder / "postgres")
    url = postgres.start()
    migrate(url)
    base = write_base(folder / "base")
    publish_base(Settings(database_url=url, data_dir=folder, model=str(base)))
    port = free_port()
    try:
        with process(
            *Installation.hearken("serve"),
            ready=f"http://127.0.0.1:{port}/readyz",
            HEARKEN_DATABASE_URL=url,
            HEARKEN_DATA_DIR=str(folder),
            HEARKEN_MODEL=str(base),
            HEARKEN_PORT=str(port),
            HEARKEN_ADMIN_KEY=ADMIN_KEY,
            HEARKEN_PUBLIC_KEY=PUBLIC_KEY,
            HEARKEN_VLLM__URLS=f'["http://127.0.0.1:{upstream_port}"]',
            HEARKEN_LOG_LEVEL="error",
            **UNLIMITED_ENVIRONMENT,
        ):
            yield port, url
    finally:
        postgres.stop()


@contextmanager
def litellm(folder: Path, upstream_port: int) -> Iterator[int]:
    """The proxy before the upstream; yields its port."""
    venv.create(folder / "litellm", with_pip=True)
    python = folder / "litellm" / "bin"
    subprocess.run([python / "pip", "install", "--quiet", LITELLM], check=True)
    config = folder / "litellm.yaml"
    config.write_text(
        "model_list:\n  - model_name: default\n    litellm_params:\n      model: openai/p0\n"
        f"      api_base: http://127.0.0.1:{upstream_port}/v1\n      api_key: none\n"
        f"general_settings:\n  master_key: {ADMIN_KEY}\n"
    )
    port = free_port()
    with process(
        str(python / "litellm"), "--config", str(config), "--port", str(port),
        ready=f"http://127.0.0.1:{port}/health/liveliness", LITELLM_LOG="ERROR",
    ):  # fmt: skip
        yield port


async def _per_second(port: int, stream: bool) -> tuple[float, float]:
    """Requests/s, and the median seconds of one."""
    body = {"model": "default", "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 64}
    message = request("127.0.0.1", "/v1/chat/completions", ADMIN_KEY, {**body, "stream": stream})
    end = time.perf_counter() + SECONDS

    def endless() -> Iterator[bytes]:
        while time.perf_counter() < end:
            yield message

    began = time.perf_counter()
    answers = await send("127.0.0.1", port, endless(), CONNECTIONS)
    seconds = time.perf_counter() - began
    failed = sum(status != 200 for status, _ in answers)
    if failed:
        raise RuntimeError(f"{failed} of {len(answers)} requests failed")
    return len(answers) / seconds, at(0.5, [wait for _, wait in answers])


def measure(ports: dict[str, int], stream: bool) -> dict[str, float]:
    rates: dict[str, list[float]] = {name: [] for name in ports}
    for port in ports.values():
        asyncio.run(_per_second(port, stream))  # warm
    for _ in range(ROUNDS):
        for name, port in ports.items():
            rate, wait = asyncio.run(_per_second(port, stream))
            rates[name].append(rate)
            print(
                f"  {'streamed' if stream else 'whole':8} {name:10} {rate:7.1f}/s  p50 {wait * 1e3:6.1f} ms"
            )
    return {name: statistics.median(found) for name, found in rates.items()}


def main() -> int:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="hearken-bench-"))).resolve()
        upstream_port = stack.enter_context(constant())
        port, url = stack.enter_context(hearken(folder, upstream_port))
        ports = {"upstream": upstream_port, "hearken": port}
        if "--alone" not in sys.argv:
            ports["litellm"] = stack.enter_context(litellm(folder, upstream_port))
        whole, streamed = measure(ports, stream=False), measure(ports, stream=True)
        with psycopg.connect(url) as connection:
            row = connection.execute("select count(*) from turns").fetchone()
    print(f"{row[0] if row else 0} turns recorded")
    if "litellm" not in ports:
        return 0
    ratios = [rates["hearken"] / rates["litellm"] for rates in (whole, streamed)]
    print(f"against LiteLLM: {ratios[0]:.1f} times whole, {ratios[1]:.1f} times streamed")
    print(json.dumps({"whole": whole, "streamed": streamed, "ratios": ratios}))
    return 0 if ratios[0] >= 6 and ratios[1] >= 10 else 1


if __name__ == "__main__":
    sys.exit(main())
