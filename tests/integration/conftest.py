"""One service for all tests that leave its policies alone; others start their own with `run_service`."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from deploy.local.ports import free_port
from schemas.database import AsyncPool, open_async_pool
from schemas.settings import Settings
from tests.conftest import new_database
from tests.contract.engines import start_embedded
from tests.missing_programs import skip_reason
from tests.policy_loading import Serving, policy_loading
from tests.published import BASE_DIGEST
from tests.service import Service, run_service
from tests.voting import add_keys
from trainer.model.backbone import Backbone


@pytest.fixture(scope="session")
def backbone(tiny_base: Path) -> Backbone:
    return Backbone(tiny_base, Settings().trainer.rl)


@pytest.fixture(scope="session")
def engine_url(tiny_base: Path) -> Iterator[str]:
    yield from start_embedded(tiny_base, "--max-loras", "6")


@pytest.fixture(scope="module")
def engine(engine_url: str) -> str:
    """An engine process over `tiny_base`, with room for six adapters and none loaded."""
    with httpx.Client(base_url=engine_url, timeout=30) as client:
        for model in client.get("/v1/models").json()["data"]:
            if model.get("parent"):
                client.post("/v1/unload_lora_adapter", json={"lora_name": model["id"]}).raise_for_status()
    return engine_url


@pytest.fixture(scope="session")
def service(
    postgres_url: str, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The API, its engine process and p0. Keys: tests.service.ADMIN and PUBLIC."""
    with (
        new_database(postgres_url) as url,
        run_service(url, tmp_path_factory.mktemp("service"), tiny_base) as running,
    ):
        yield running


@pytest.fixture(scope="session")
def promtool() -> str:
    """Prometheus' own checker of rules."""
    executable = shutil.which("promtool")
    if executable is None:
        assert os.environ.get("CI") != "true", "no promtool here, and CI must have one"
        pytest.skip(skip_reason("promtool"))
    return executable


@pytest.fixture
async def async_pool(database_url: str) -> AsyncIterator[AsyncPool]:
    """Of a database that has the keys of `tests.voting`."""
    async with open_async_pool(database_url) as pool:
        await add_keys(pool)
        yield pool


@pytest.fixture
async def serving(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Serving]:
    monkeypatch.setattr("serving.policy_files.base_digest", lambda directory: BASE_DIGEST)
    async with policy_loading(database_url, tmp_path) as found:
        yield found


@pytest.fixture
def swapping(
    request: pytest.FixtureRequest,
    postgres_url: str,
    engine: str,
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Service]:
    """A service of the test's own, with p0 live, over an engine that starts empty. Unused policies are
    unloaded soon. Its parameter is how policies are promoted."""
    promotion = getattr(request, "param", "direct")
    monkeypatch.setattr("serving.fleet._UNLOAD_DELAY", 0.5)
    monkeypatch.setattr("serving.policy_loader.DAMAGED_SECONDS", 0.5)
    monkeypatch.setattr("serving.policy_loader.MISSING_SECONDS", 1.5)
    monkeypatch.setattr("serving.rollout_controller.INTERVAL", 0.5)
    monkeypatch.setattr("serving.rollout_evidence.GRACE", timedelta())
    with (
        new_database(postgres_url) as url,
        run_service(url, tmp_path, tiny_base, engines=[engine], promotion=promotion) as service,
    ):
        yield service
        service.until(lambda: service.counted("hearken_requests_in_flight") == 0)
    with httpx.Client(base_url=engine) as client:
        for card in client.get("/v1/models").json()["data"]:
            client.post("/v1/unload_lora_adapter", json={"lora_name": card["id"]})


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The folder behind a bucket of a server that speaks S3; the environment leads to it."""
    rclone, port = Path(sys.executable).with_name("rclone"), free_port()
    folder = tmp_path / "store" / "bucket"
    folder.mkdir(parents=True)
    address = ["--addr", f"127.0.0.1:{port}", "--auth-key", "key,secret", "--config", "/dev/null"]
    server = subprocess.Popen(
        [rclone, "serve", "s3", str(folder.parent), *address], stderr=subprocess.DEVNULL
    )
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    deadline = time.monotonic() + 20
    while not _listens(port):
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.05)
    yield folder
    server.terminate()
    server.wait(20)


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0
