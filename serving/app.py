"""The FastAPI application: its routes, its middleware, and its graceful shutdown."""

import asyncio
import gc
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from prometheus_client.registry import Collector
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import STARTUP_FAILURE

from feedback import scheduled_export
from schemas import logs
from schemas.errors import StartError
from schemas.generation_defaults import read_generation_defaults
from schemas.settings import Settings
from schemas.special_tokens import read_special_tokens
from serving import (
    admin,
    chat,
    consent,
    error_handlers,
    health,
    live,
    page,
    passthrough,
    policy_card,
    questions,
    responses,
    sessions,
    stored_completions,
    stored_responses,
    turns,
    users,
    vote_export,
    votes,
    webhooks,
    widget,
)
from serving.console import annotation, desk, events, people, policies, rollouts, rounds, status, whoami
from serving.console import settings as shown_settings
from serving.http_protocol import LimitedHttpProtocol
from serving.limits import BodyLimit
from serving.loop_metrics import loop_metrics
from serving.metrics import Metrics
from serving.openapi import DescribedApp
from serving.request_log import RequestLog
from serving.security_headers import SecurityHeaders, allowed_hosts
from serving.services import Services, log_end, open_services
from serving.spooled import apply_spool
from serving.tenants import audit, keys, projects, quarantine, usage

_SHUTDOWN_SECONDS = 10  # for running replies to end
_PUBLIC_PATHS = (
    "/v1/chat/", "/v1/erasures/", "/v1/feedback", "/v1/models", "/v1/responses", "/v1/sessions", "/v1/tastes",
    "/v1/users/me", "/v1/widget",
)  # fmt: skip


def create_app(
    settings: Settings, collectors: Sequence[Collector] = (), real_model_command: str | None = None
) -> FastAPI:
    """Returns the API over `settings.database_url` (migrated, with keys: see `serving.keys.ensure_keys`) and
    the engines of `settings.vllm.urls`; `settings.model` is the base model's directory. `collectors` are
    shown at /metrics beside serving's own. Where the base is a toy, the page says so, and that
    `real_model_command` brings a real one.

    Raises StartError when the database or the engines are not configured, a file of the base is not valid, or
    the scheduled export cannot work.
    """
    if settings.database_url is None or not settings.vllm.urls:
        raise StartError("Serving needs database_url and vllm.urls; `hearken up` starts both by itself.")
    scheduled_export.check(settings)
    defaults = read_generation_defaults(Path(settings.model))
    special_tokens = read_special_tokens(Path(settings.model))
    metrics = Metrics()
    for collector in (loop_metrics(settings), *collectors):
        metrics.registry.register(collector)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_services(settings, defaults, special_tokens, metrics) as services:
            app.state.services = services
            services.tasks.append(asyncio.create_task(apply_spool(services), name="spool"))
            services.tasks[-1].add_done_callback(log_end)
            yield

    app = DescribedApp(title="Hearken", docs_url=None, redoc_url=None, lifespan=lifespan)
    error_handlers.install(app)
    for part in (
        chat, responses, stored_completions, stored_responses, passthrough, sessions, turns, consent, users,
        questions, vote_export, votes, live, widget, webhooks, admin, policy_card, health,
    ):  # fmt: skip
        app.include_router(part.router)
    for part in (
        status, desk, people, annotation, rounds, policies, rollouts, shown_settings, events, whoami,
    ):  # fmt: skip
        app.include_router(part.router)
    for part in (projects, keys, usage, audit, quarantine):
        app.include_router(part.router)
    page.install(app, real_model_command)
    app.add_middleware(BodyLimit, limit=settings.serving.max_body_bytes)
    app.add_middleware(_PublicCORS)
    app.add_middleware(RequestLog, metrics=metrics)
    app.add_middleware(SecurityHeaders, hosts=allowed_hosts(settings))
    return app


def serve(
    settings: Settings, collectors: Sequence[Collector] = (), real_model_command: str | None = None
) -> None:
    """Runs the API until a signal ends it; running replies get some seconds to finish. Raises SystemExit: 0
    after SIGTERM, else uvicorn's code for a failed start."""
    logs.configure(settings.log_level)
    gc.freeze()  # imported objects live for ever: rescanning them costs tens of milliseconds
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again after its shutdown
    app = create_app(settings, collectors, real_model_command)
    config = uvicorn.Config(
        app,
        http=LimitedHttpProtocol,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        ws_max_size=4 * settings.serving.max_body_bytes,  # up to here, a message over the limit gets an error
        forwarded_allow_ips=settings.serving.trusted_proxies,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    server = _Server(config, app)
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(STARTUP_FAILURE)


class _Server(uvicorn.Server):
    """uvicorn, but replies on websockets may end too, where uvicorn closes websockets at once."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        started = time.monotonic()
        services: Services = self._app.state.services
        services.feed.close()
        await services.hub.drain(_SHUTDOWN_SECONDS)
        self.config.timeout_graceful_shutdown = max(1, round(started + _SHUTDOWN_SECONDS - time.monotonic()))
        await super().shutdown(sockets)


class _PublicCORS(CORSMiddleware):
    """Allows pages of any origin to call what a publishable key allows, and nothing else (CORS)."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(
            app,
            allow_origins=["*"],
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["*"],
            expose_headers=["Retry-After", "X-Request-Id"],
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        public = scope["type"] == "http" and scope["path"].startswith(_PUBLIC_PATHS)
        await (super().__call__ if public else self.app)(scope, receive, send)
