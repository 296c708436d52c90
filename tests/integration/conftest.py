"""One service for all tests that leave its policies alone; others start their own with `run_service`."""

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from schemas.database import AsyncPool, open_async_pool
from schemas.settings import Settings
from tests.conftest import new_database
from tests.contract.engines import start_embedded
from tests.missing_programs import skip_reason
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
