"""A `hearken up` of a bench's own, or a `hearken serve` with a database and no engine: temporary data folder,
free port, known keys, stopped cleanly."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from deploy.local.ports import free_port
from deploy.local.postgres import EmbeddedPostgres
from tests.installation import ADMIN_KEY, PUBLIC_KEY, Installation
from tests.unlimited import UNLIMITED_ENVIRONMENT


@contextmanager
def hearken_up(**settings: str) -> Iterator[Installation]:
    """Everything on this machine, ready; `settings` are HEARKEN_… variables, the caller's own are ignored.

    Raises RuntimeError when it does not end well on SIGTERM. What it said is shown when a bench fails.
    """
    with TemporaryDirectory(prefix="hearken-bench-") as folder:
        installation = Installation(Path(folder).resolve() / "data", **settings)
        given = {"HEARKEN_ADMIN_KEY", "HEARKEN_PUBLIC_KEY", *settings}
        installation.environment = {
            name: value
            for name, value in installation.environment.items()
            if not name.startswith("HEARKEN_") or name in given
        }
        installation.start()
        try:
            installation.wait_until_ready(180)
            yield installation
        except BaseException:
            print(installation.console()[-4_000:], file=sys.stderr)
            raise
        finally:
            code = _stop(installation)
        if code != 0:
            raise RuntimeError(f"hearken up ended with exit code {code}")


@contextmanager
def hearken_serve() -> Iterator[tuple[str, int]]:
    """One serving process and its Postgres, without an engine and with wide rate limits; yields its database
    URL and its port."""
    with TemporaryDirectory(prefix="hearken-bench-") as folder:
        postgres = EmbeddedPostgres(Path(folder).resolve() / "postgres")
        url, port = postgres.start(), free_port()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HEARKEN_")}
        environment |= {
            "HEARKEN_DATABASE_URL": url,
            "HEARKEN_ADMIN_KEY": ADMIN_KEY,
            "HEARKEN_PUBLIC_KEY": PUBLIC_KEY,
            "HEARKEN_PORT": str(port),
            "HEARKEN_VLLM__URLS": '["http://127.0.0.1:1"]',
            "HEARKEN_LOG_LEVEL": "error",
            **UNLIMITED_ENVIRONMENT,
        }
        serving = subprocess.Popen(Installation.hearken("serve"), env=environment)
        try:
            while not _answers(port):
                time.sleep(0.1)
            yield url, port
        finally:
            serving.terminate()
            serving.wait(30)
            postgres.stop()


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def _stop(installation: Installation) -> int:
    """Its exit code; one that does not stop in time is killed, and its children end with it."""
    assert installation.process is not None
    try:
        return installation.stop()
    except subprocess.TimeoutExpired:
        installation.process.kill()
        return installation.process.wait()
