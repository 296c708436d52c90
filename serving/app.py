"""The FastAPI application: what the rooms' parts share, who is routed where, and in what order they start.

Everything a request needs is on `app.state`: settings, pool, store, seals, keyring, limiter, router, fleet,
swap, hub, metrics, and the work that goes on beside requests. Engines, the database and the first policy may
all come up later than this process; until then requests are answered 503.
"""

import asyncio
import gc
import json
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import structlog
import uvicorn
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import STARTUP_FAILURE

from feedback import retention
from feedback.store import Store
from schemas import logs
from schemas.database import open_async_pool
from schemas.errors import StartError
from schemas.settings import Settings
from serving import admin, chat, envelope, health, live, page, votes
from serving.auth import Keyring, Seals
from serving.fleet import Fleet
from serving.keys import ensure_seal
from serving.limits import BodyLimit, Limiter
from serving.logs import RequestLog
from serving.metrics import Metrics
from serving.pulse import pulse
from serving.router import Router
from serving.swap import Swap

log = structlog.get_logger()

_LAST_SECONDS = 10
_PUBLIC = ("/v1/chat/", "/v1/feedback", "/v1/models")


def create_app(settings: Settings) -> FastAPI:
    """The API over `settings.database_url` (migrated, with keys: see `serving.keys.ensure_keys`) and the
    engines of `settings.vllm.urls`; `settings.model` is the base's directory.

    Raises StartError when the database or the engines are missing.
    """
    if settings.database_url is None or not settings.vllm.urls:
        raise StartError("Serving needs database_url and vllm.urls; `hearken up` starts both by itself.")
    app = FastAPI(title="Hearken", docs_url=None, redoc_url=None, lifespan=_lifespan)
    app.state.settings = settings
    app.state.metrics = Metrics()
    app.state.metrics.registry.register(pulse(settings))
    app.state.limiter = Limiter(settings.serving.requests_per_minute)
    app.state.router = Router(settings.serving.base_share)
    app.state.hub = live.Hub(app.state)
    envelope.install(app)
    for part in (chat, votes, live, admin, health):
        app.include_router(part.router)
    page.install(app)
    app.add_middleware(BodyLimit, limit=settings.serving.max_body_bytes)
    app.add_middleware(_PublicCORS)
    app.add_middleware(RequestLog, state=app.state)
    return app


def serve(settings: Settings) -> None:
    """Run the API until a signal ends it; streams get some seconds to finish. Raises SystemExit: 0 after
    SIGTERM, else what uvicorn makes of a start that failed."""
    logs.configure(settings.log_level)
    gc.freeze()  # what was imported stays: to look through it again and again costs tens of milliseconds
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again when it is done
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        ws_max_size=4 * settings.serving.max_body_bytes,  # what is over the limit is answered, up to here
        forwarded_allow_ips=settings.serving.trusted_proxies,
        timeout_graceful_shutdown=_LAST_SECONDS,
    )
    server = _Server(config, app.state.hub)
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(STARTUP_FAILURE)


class _Server(uvicorn.Server):
    """Lets replies on websockets end as well, where uvicorn cuts sockets off at once."""

    def __init__(self, config: uvicorn.Config, hub: live.Hub) -> None:
        super().__init__(config)
        self._hub = hub

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        begun = time.monotonic()
        await self._hub.finish(_LAST_SECONDS)
        self.config.timeout_graceful_shutdown = max(1, round(begun + _LAST_SECONDS - time.monotonic()))
        await super().shutdown(sockets)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state = app.state
    settings: Settings = state.settings
    async with open_async_pool(
        settings.database_url or "", size=settings.connections, statement_timeout=settings.statement_timeout
    ) as pool:
        async with pool.connection() as connection:
            state.seals = Seals(await ensure_seal(connection))
        state.pool = pool
        state.store = Store(pool)
        state.keyring = Keyring(pool)
        context = _context(Path(settings.model))
        state.fleet = Fleet(settings.vllm.urls, settings.serving.engine_timeout, context)
        state.swap = Swap(settings, pool, state.fleet, state.router, state.metrics, state.hub.gone_live)
        state.work = [
            asyncio.create_task(state.swap.run(), name="swap"),
            asyncio.create_task(state.limiter.run(pool), name="limiter"),
            asyncio.create_task(retention.run(pool, settings.retention_days), name="retention"),
        ]
        for task in state.work:
            task.add_done_callback(_ended)
        try:
            yield
        finally:
            for task in state.work:
                task.cancel()
            await asyncio.wait(state.work)
            await state.fleet.close()


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        log.critical("work_ended", work=task.get_name(), exc_info=task.exception())


def _context(model: Path) -> int | None:
    """The base model's context in tokens, if its configuration tells."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    found = config.get("max_position_embeddings") or config.get("text_config", {}).get(
        "max_position_embeddings"
    )
    return found if isinstance(found, int) else None


class _PublicCORS(CORSMiddleware):
    """Pages of any origin may use what a publishable key opens, and nothing else."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(
            app,
            allow_origins=["*"],
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["Retry-After", "X-Request-Id"],
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        public = scope["type"] == "http" and scope["path"].startswith(_PUBLIC)
        await (super().__call__ if public else self.app)(scope, receive, send)
