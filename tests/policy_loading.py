"""The part of serving that loads policies, over an engine that keeps what it is asked."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from psycopg.types.json import Jsonb

from deploy.local.ports import free_port
from schemas import signatures
from schemas.database import AsyncPool, open_async_pool
from schemas.policies import BASE
from schemas.settings import Settings, SigningSettings, VllmSettings
from serving.fleet import Fleet
from serving.metrics import Metrics
from serving.router import Router
from serving.swap import Swap
from tests.published import BASE_DIGEST, KEY, POLICY, PROBE, Published
from tests.service import policy_of_adapter


class Recorder:
    """An engine that keeps what it is asked, and answers a probe as the manifest says. A load of the policy
    `fatal` ends it: it is `down`, with nothing loaded."""

    def __init__(self) -> None:
        self.loaded: dict[str, str] = {}
        self.changes: list[str] = []
        self.replaced = False
        self.down = False
        self.fatal: str | None = None
        self.on_load: Callable[[], None] = lambda: None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/{path:.*}", self._change)
        runner = web.AppRunner(app)
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            await runner.cleanup()

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=503 if self.down else 200)

    async def _models(self, request: web.Request) -> web.Response:
        cards = [{"id": name, "root": root, "parent": "base"} for name, root in self.loaded.items()]
        return web.json_response({"data": cards})

    async def _change(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.changes.append(request.path)
        if self.down:
            return web.Response(status=503)
        if request.path == "/v1/load_lora_adapter":
            self.on_load()
            if policy_of_adapter(body["lora_name"]) == self.fatal:
                self.down = True
                self.loaded.clear()
                return web.Response(status=500)
            self.loaded[body["lora_name"]] = body["lora_path"]
            self.replaced = False
        elif request.path == "/v1/unload_lora_adapter":
            self.loaded.pop(body["lora_name"], None)
        else:
            known = dict(zip(PROBE.token_ids[1:], PROBE.logprobs, strict=True))
            value = known.get(body["allowed_token_ids"][0], -1.0) - 3.0 * self.replaced
            return web.json_response({"choices": [{"logprobs": {"token_logprobs": [value]}}]})
        return web.json_response({})


@dataclass
class Serving:
    """The part of serving that loads policies, over an engine that keeps what it is asked."""

    swap: Swap
    fleet: Fleet
    engine: Recorder
    metrics: Metrics
    settings: Settings
    pool: AsyncPool
    policy: Published

    async def register(self, published: Published, policy: str = POLICY, state: str = "published") -> None:
        async with self.pool.connection() as connection:
            await connection.execute("delete from policies where id = %s", [policy])
            await connection.execute(
                "insert into policies"
                " (project, id, base_digest, directory, digest, signature, manifest, state)"
                " values ('default', %s, %s, %s, %s, %s, %s, %s)",
                [policy, BASE_DIGEST, str(published.directory), published.row["digest"],
                 published.row["signature"], Jsonb({}), state],
            )  # fmt: skip

    async def state(self) -> tuple[str, str | None]:
        """Returns the state of the policy, and its reason."""
        async with self.pool.connection() as connection:
            cursor = await connection.execute("select state, reason from policies where id = %s", [POLICY])
            row = await cursor.fetchone()
        assert row is not None
        return row["state"], row["reason"]

    async def live(self) -> str:
        async with self.pool.connection() as connection:
            row = await (await connection.execute("select live from routes")).fetchone()
        assert row is not None
        return str(row["live"])


def trust(settings: Settings, *keys: Ed25519PrivateKey) -> None:
    path = settings.trusted_keys_path
    assert path is not None
    path.write_bytes(b"".join(signatures.public_pem(key.public_key()) for key in keys))


@asynccontextmanager
async def policy_loading(database_url: str, tmp_path: Path) -> AsyncIterator[Serving]:
    """Yields serving with p0 live, and one policy that was published, of a base with BASE_DIGEST."""
    engine = Recorder()
    async with engine.running() as url, open_async_pool(database_url) as pool:
        settings = Settings(
            data_dir=tmp_path / "data",
            database_url=database_url,
            model=str(tmp_path),
            vllm=VllmSettings(urls=[url]),
            signing=SigningSettings(trusted_file=tmp_path / "trusted.pem"),
        )
        trust(settings, KEY)
        router, metrics = Router(0.0), Metrics()
        fleet = Fleet([url], timeout=5, replaced=metrics.adapters_replaced.inc)
        swap = Swap(settings, pool, fleet, router, metrics, lambda route: None)
        policy = Published(tmp_path / "policies" / "default" / POLICY)
        policy.write()
        found = Serving(swap, fleet, engine, metrics, settings, pool, policy)
        base = Published(tmp_path / "policies" / "default" / BASE)
        base.write(id=BASE)
        async with pool.connection() as connection:
            await connection.execute("insert into projects (id) values ('default') on conflict do nothing")
        await found.register(base, BASE, "live")
        await found.register(policy, state="retired")
        async with pool.connection() as connection:
            await connection.execute(
                "insert into routes (project, live, previous) values ('default', 'p0', 'p0')"
            )
        await fleet.health_check()
        await swap.reconcile()
        engine.changes.clear()
        yield found
        await fleet.close()
