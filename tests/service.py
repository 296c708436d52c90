"""These helpers run all of serving for tests: a small random base, an engine process, uvicorn."""

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import httpx
import psycopg
import torch
import uvicorn
from peft import PeftModel
from psycopg.types.json import Jsonb
from transformers import AutoModelForCausalLM

from deploy.local.ports import free_port
from schemas.database import open_async_pool
from schemas.policies import BASE, CONFIG, MANIFEST, WEIGHTS, Manifest, Probe, base_digest, file_digest
from schemas.settings import EngineSettings, ServingSettings, Settings, VllmSettings
from schemas.taste_model import REWARD, TASTES
from serving.app import create_app
from serving.http_protocol import LimitedHttpProtocol
from serving.keys import ensure_keys
from serving.services import Services
from tests.contract.engines import (
    random_model,
    shared_tokenizer,
    start_embedded,
    write_adapter,
)
from tests.unlimited import UNLIMITED

ADMIN = "sk-hearken-admin-0123456789"
PUBLIC = "pk-hearken-public-0123456789"
PROBE = [5, 9, 17, 40, 41, 42, 99, 120, 77, 3, 250, 11]
CONTEXT = 256
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # spares each client the reading of certificates


def write_base(directory: Path) -> Path:
    """A tiny Llama with random weights: its replies are long nonsense, the same for the same weights."""
    tokenizer = shared_tokenizer()
    tokenizer.save_pretrained(directory)
    random_model("llama", len(tokenizer)).save_pretrained(directory)
    return directory


def policy_of_adapter(name: str) -> str:
    """Returns the policy of an adapter on an engine."""
    return name.split(".")[1] if "." in name else name


class DrawnAdapter(NamedTuple):
    """An adapter's files and what it and its base say to PROBE."""

    files: dict[str, bytes]
    probe: Probe


@cache
def _draw_adapter(base: Path, digest: str, seed: int) -> DrawnAdapter:
    """Returns the adapter of the base, which has this digest, that is drawn from `seed`: once for all
    services."""
    with TemporaryDirectory() as folder:
        directory = Path(folder, "adapter")
        write_adapter(base, directory, seed)
        (directory / "README.md").unlink(missing_ok=True)
        files = {path.name: path.read_bytes() for path in directory.iterdir()}
        own = _logprobs(base, directory)
    return DrawnAdapter(files, Probe(token_ids=PROBE, logprobs=own, base_logprobs=_logprobs(base, None)))


def _logprobs(base: Path, adapter: Path | None) -> list[float]:
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    with torch.inference_mode():
        logits = model.eval()(input_ids=torch.tensor([PROBE])).logits[0, :-1].log_softmax(-1)
    found: list[float] = logits.gather(-1, torch.tensor(PROBE[1:])[:, None]).squeeze(-1).tolist()
    return found


class Registry:
    """The registry as the trainer writes it: policy directories and their rows."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._url = settings.database_url or ""
        self._base = Path(settings.model)
        self._digest = base_digest(self._base)

    def publish(
        self,
        policy: str,
        *,
        parent: str | None = BASE,
        seed: int,
        state: str = "published",
        outcome: str | None = None,
        prepare: Callable[[Path], None] | None = None,
    ) -> Path:
        """Write the adapter drawn from `seed` (0: all zeros) and announce it with the gate's outcome; returns
        its directory, to which `prepare` may add a taste model before."""
        directory = self._settings.policies_dir / self._settings.project / policy
        directory.mkdir(parents=True, exist_ok=True)
        drawn = _draw_adapter(self._base, self._digest, seed)
        for name, content in drawn.files.items():
            (directory / name).write_bytes(content)
        if prepare is not None:
            prepare(directory)
        self.announce(policy, directory, parent=parent, probe=drawn.probe, state=state, outcome=outcome)
        return directory

    def announce(
        self,
        policy: str,
        directory: Path,
        *,
        parent: str | None,
        probe: Probe,
        state: str = "published",
        outcome: str | None = None,
    ) -> None:
        manifest = Manifest(
            id=policy,
            project=self._settings.project,
            parent=parent,
            base_model=str(self._base),
            base_digest=self._digest,
            files={
                name: file_digest(directory / name)
                for name in (WEIGHTS, CONFIG, TASTES, REWARD)
                if (directory / name).is_file()
            },
            log_positions={},
            examples=0,
            examples_digest="",
            configuration={},
            seed=0,
            versions={},
            metrics={},
            probe=probe,
            created_at=datetime.now(UTC),
        )
        (directory / MANIFEST).write_text(manifest.model_dump_json())
        with psycopg.connect(self._url) as connection:
            connection.execute(
                "insert into policies (project, id, parent, base_digest, directory, digest, manifest, gate,"
                " state, live_at)"
                " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, case when %s = 'live' then now() end)",
                [
                    self._settings.project,
                    policy,
                    parent,
                    self._digest,
                    str(directory),
                    file_digest(directory / MANIFEST),
                    Jsonb(manifest.model_dump(mode="json")),
                    Jsonb({"outcome": outcome}) if outcome else None,
                    state,
                    state,
                ],
            )
            if policy == BASE:
                connection.execute(
                    "insert into routes (project, live, previous) values (%s, %s, %s)",
                    [self._settings.project, BASE, BASE],
                )
            connection.execute("select pg_notify('hearken_policies', %s)", [self._settings.project])

    def state(self, policy: str) -> tuple[str, str | None]:
        """Returns the policy's state and its reason."""
        with psycopg.connect(self._url) as connection:
            row = connection.execute("select state, reason from policies where id = %s", [policy]).fetchone()
        assert row is not None
        return row[0], row[1]


class Service:
    """A running service at `url`. Tests read its `services`, and never change them."""

    def __init__(self, url: str, settings: Settings, registry: Registry, services: Services) -> None:
        self.url = url
        self.settings = settings
        self.registry = registry
        self.services = services

    def client(self, key: str | None = ADMIN) -> httpx.Client:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, verify=_NO_TLS)

    def chat(self, text: str = "Hello there", key: str = ADMIN, **fields: Any) -> dict[str, Any]:
        """Returns a whole reply, by default greedy and of 8 tokens."""
        body = {
            "model": "default",
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 8,
            "temperature": 0,
            **fields,
        }
        with self.client(key) as client:
            response = client.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.settings.database_url or "") as connection:
            return connection.execute(query.encode(), values).fetchall()

    def counted(self, metric: str, **labels: str) -> float:
        """Returns the metric's value, 0 where it has no sample."""
        with self.client(None) as client:
            wanted = metric + (
                "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}" if labels else ""
            )
            for line in client.get("/metrics").text.splitlines():
                if line.startswith(wanted + " "):
                    return float(line.rsplit(" ", 1)[1])
        return 0.0

    def until(self, condition: Any, seconds: float = 20) -> None:
        """Waits until `condition()` holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not come true in time"
            time.sleep(0.02)

    def live(self) -> str:
        return str(self.rows("select live from routes")[0][0])

    def routed(self) -> str:
        """Returns the policy that this process answers with, which follows the registry's live one."""
        return self.services.router.route("default").live


@contextmanager
def run_service(
    database_url: str,
    directory: Path,
    base: Path,
    *,
    engines: list[str] | None = None,
    max_adapters: int = 6,
    **serving: Any,
) -> Iterator[Service]:
    """Serving over `base` with p0 live, on a migrated database. Without `engines` it starts one process."""
    with contextmanager(_engine)(base, engines) as urls:
        settings = Settings(
            database_url=database_url,
            data_dir=directory,
            model=str(base),
            admin_key=ADMIN,
            public_key=PUBLIC,
            engine=EngineSettings(max_adapters=max_adapters),
            vllm=VllmSettings(urls=urls),
            serving=ServingSettings(**{"base_share": 0, **UNLIMITED, **serving}),
        )
        asyncio.run(make_keys(settings))
        registry = Registry(settings)
        registry.publish(BASE, parent=None, seed=0, state="live")
        with run_api(settings) as (url, services):
            service = Service(url, settings, registry, services)
            service.until(lambda: httpx.get(f"{url}/readyz", verify=_NO_TLS).status_code == 200, seconds=60)
            yield service


@contextmanager
def run_api(settings: Settings) -> Iterator[tuple[str, Services]]:
    """The API alone, in a thread with its own event loop; yields its url and its services."""
    app = create_app(settings)
    port = free_port()
    config = uvicorn.Config(
        app,
        http=LimitedHttpProtocol,
        port=port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=3,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the API ended while starting"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}", app.state.services
    finally:
        server.should_exit = True
        thread.join(20)


def events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """Yields the JSON of each server-sent event, up to [DONE]."""
    for line in response.iter_lines():
        if line == "data: [DONE]":
            return
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def _engine(base: Path, urls: list[str] | None) -> Iterator[list[str]]:
    if urls is not None:
        yield urls
        return
    with contextmanager(start_embedded)(base, "--max-loras", "6") as url:
        yield [url]


async def make_keys(settings: Settings) -> None:
    async with open_async_pool(settings.database_url or "", size=1) as pool:
        await ensure_keys(pool, settings)
