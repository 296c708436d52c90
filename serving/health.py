"""Liveness, readiness and metrics endpoints: `/healthz`, `/readyz` and `/metrics` need no key."""

from typing import Any

import psycopg
from fastapi import APIRouter, Request
from psycopg_pool import PoolTimeout
from starlette.responses import JSONResponse, PlainTextResponse, Response

from serving.services import services

router = APIRouter()

_FAILED: dict[int | str, dict[str, Any]] = {
    503: {"description": "It does not hold.", "model": dict[str, Any]}
}


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", responses=_FAILED)
async def healthz(request: Request) -> Response:
    """Liveness: returns 503 when a background task has ended, after which only a restart helps."""
    ended = [task.get_name() for task in services(request).tasks if task.done()]
    if ended:
        return JSONResponse({"status": "failed", "ended": ended}, 503)
    return JSONResponse({"status": "ok"})


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses=_FAILED)
async def readyz(request: Request) -> Response:
    """Readiness: returns 503 unless the database answers and a healthy engine serves the live policy."""
    parts = services(request)
    route = parts.router.find(parts.settings.project)
    try:
        await parts.database_check.get()
        database = True
    except (psycopg.OperationalError, PoolTimeout):
        database = False
    checks = {
        "database": database,
        "engine": bool(parts.fleet.healthy),
        "policy": route is not None and parts.fleet.serves(route.adapter(route.live)),
    }
    ready = all(checks.values())
    body = {"status": "ready" if ready else "not_ready", "checks": checks}
    return JSONResponse(body, 200 if ready else 503, None if ready else {"Retry-After": "1"})


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    text = await services(request).exposition.get()
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
