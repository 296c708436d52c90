"""`Services` is the composition root of the API process: it holds all that request handlers share.

The engines, the database and the first policy may come up later than this process; until then requests are
answered 503.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import structlog
from psycopg_pool import PoolTimeout
from starlette.requests import HTTPConnection

from feedback import erasing, retention, scheduled_export
from feedback.spool import Spool
from feedback.store import Store
from feedback.webhook_sender import WebhookSender
from feedback.webhook_target import Targets
from schemas.database import AsyncPool, open_async_pool
from schemas.generation_defaults import GenerationDefaults
from schemas.settings import Settings
from schemas.special_tokens import SpecialTokens
from serving.change_feed import Feed
from serving.engine import EngineClient
from serving.fleet import Fleet
from serving.hard_failure import Failures
from serving.hub import Hub
from serving.key_cache import KeyCache
from serving.keys import ensure_signing_secret, publishable_key
from serving.limits import RateLimiter
from serving.metrics import Metrics
from serving.pairs import PairChooser
from serving.redaction import Redaction
from serving.router import Router
from serving.shared_result import SharedResult
from serving.swap import Swap
from serving.tastes import Tastes
from serving.token_signer import TokenSigner
from serving.usage import Usage

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Services:
    """The shared parts of one application. They are built before the first request, so none is ever missing.

    `generation_defaults` and `special_tokens` are the base's; `tasks` run beside the requests until the
    process ends. What anybody may ask without a key is computed once for all who ask: `database_check`,
    `page_key` and `exposition` (of the metrics); so are the `statuses` of projects, for their consoles.
    `making_questions` are the tasks that make the questions of a project under a policy.
    """

    settings: Settings
    generation_defaults: GenerationDefaults
    special_tokens: SpecialTokens
    metrics: Metrics
    pool: AsyncPool
    store: Store
    spool: Spool
    signer: TokenSigner
    keys: KeyCache
    limiter: RateLimiter
    usage: Usage
    router: Router
    fleet: Fleet
    redaction: Redaction
    swap: Swap
    failures: Failures
    tastes: Tastes
    pairs: PairChooser
    hub: Hub
    feed: Feed
    database_check: SharedResult[None]
    page_key: SharedResult[str | None]
    exposition: SharedResult[bytes]
    statuses: dict[str, SharedResult[dict[str, Any]]]
    making_questions: dict[tuple[str, str], asyncio.Task[None]]
    tasks: list[asyncio.Task[None]]


def services(connection: HTTPConnection) -> Services:
    """Returns the services of the application that handles this request or websocket."""
    found: Services = connection.app.state.services
    return found


@asynccontextmanager
async def open_services(
    settings: Settings,
    generation_defaults: GenerationDefaults,
    special_tokens: SpecialTokens,
    metrics: Metrics,
) -> AsyncIterator[Services]:
    """Builds the services over `settings.database_url` and starts their tasks; on exit, ends both."""
    async with open_async_pool(
        settings.database_url or "", size=settings.connections, statement_timeout=settings.statement_timeout
    ) as pool:
        async with pool.connection() as connection:
            signer = TokenSigner(await ensure_signing_secret(connection))
        store = Store(pool)
        folder = settings.serving.spool_dir or settings.data_dir / "spool"
        spool = Spool(folder, settings.serving.spool_bytes, metrics.spooled_refused.inc)
        spool.open()
        metrics.spooled.set_function(lambda: spool.size)
        metrics.spooled_aside.set_function(lambda: spool.set_aside)
        limiter = RateLimiter()
        usage = Usage(metrics)
        keys = KeyCache(pool)
        router = Router(settings.serving.base_share)
        redaction = Redaction(settings.redaction, pool, router, signer)
        async with pool.connection() as connection:
            await redaction.prepare(connection)
        fleet = Fleet(
            settings.vllm.urls,
            settings.serving.engine_timeout,
            _context_length(Path(settings.model)),
            settings.engine.max_adapters,
            settings.vllm.key.get_secret_value() if settings.vllm.key else None,
            metrics.adapters_replaced.inc,
        )
        tastes = Tastes(settings, pool, fleet, router, _scorer(settings))
        hub = Hub(pool, store)
        feed = Feed(pool, limiter)
        swap = Swap(settings, pool, fleet, router, metrics, hub.announce)

        def key_changed(key_id: str | None) -> None:
            keys.forget(key_id)
            hub.recheck(key_id)

        swap.on_key_change(key_changed)
        webhooks = WebhookSender(pool, Targets(settings.serving.webhook_networks), metrics.count_webhook)
        tasks = [
            asyncio.create_task(swap.run(), name="swap"),
            asyncio.create_task(limiter.run(pool), name="limiter"),
            asyncio.create_task(usage.run(pool), name="usage"),
            asyncio.create_task(feed.run(), name="feed"),
            asyncio.create_task(retention.run(pool, settings.retention_days), name="retention"),
            asyncio.create_task(scheduled_export.run(settings, metrics.count_export), name="export"),
            asyncio.create_task(webhooks.run(), name="webhooks"),
            asyncio.create_task(erasing.run(settings, pool), name="erasing"),
        ]
        for task in tasks:
            task.add_done_callback(log_end)
        making_questions: dict[tuple[str, str], asyncio.Task[None]] = {}
        try:
            yield Services(
                settings=settings,
                generation_defaults=generation_defaults,
                special_tokens=special_tokens,
                metrics=metrics,
                pool=pool,
                store=store,
                spool=spool,
                signer=signer,
                keys=keys,
                limiter=limiter,
                usage=usage,
                router=router,
                fleet=fleet,
                redaction=redaction,
                swap=swap,
                failures=swap.trials.failures,
                tastes=tastes,
                pairs=PairChooser(),
                hub=hub,
                feed=feed,
                database_check=SharedResult(partial(_check, pool)),
                page_key=SharedResult(partial(_page_key, pool, settings.project), seconds=1),
                exposition=SharedResult(partial(asyncio.to_thread, metrics.exposition)),
                statuses={},
                making_questions=making_questions,
                tasks=tasks,
            )
        finally:
            running = [*tasks, *making_questions.values()]
            for task in running:
                task.cancel()
            await asyncio.wait(running)
            with suppress(psycopg.OperationalError, PoolTimeout):
                await usage.flush(pool)
            await spool.close()
            await tastes.close()
            await fleet.close()


def _scorer(settings: Settings) -> EngineClient | None:
    url, key = settings.serving.scorer_url, settings.vllm.key
    if url is None:
        return None
    return EngineClient(url, settings.serving.engine_timeout, key.get_secret_value() if key else None)


async def _check(pool: AsyncPool) -> None:
    async with pool.connection(timeout=2) as connection:
        await connection.execute("select 1")


async def _page_key(pool: AsyncPool, project: str) -> str | None:
    async with pool.connection() as connection:
        return await publishable_key(connection, project)


def log_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        log.critical("background_task_ended", task=task.get_name(), exc_info=task.exception())


def _context_length(model: Path) -> int | None:
    """Returns the base model's context length in tokens, or None where its configuration has none."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    found = config.get("max_position_embeddings") or config.get("text_config", {}).get(
        "max_position_embeddings"
    )
    return found if isinstance(found, int) else None
