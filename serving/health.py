"""How this process is: `/healthz` (it runs, and so does what goes on beside requests), `/readyz` (it can
answer), `/metrics` (figures). No keys."""

import asyncio

import psycopg
from fastapi import APIRouter, Request
from psycopg_pool import PoolTimeout
from starlette.responses import JSONResponse, Response

from serving.fleet import Fleet
from serving.router import Router

router = APIRouter()


@router.get("/healthz")
async def healthz(request: Request) -> Response:
    """503 when work that never ends has ended: only a restart brings it back."""
    ended = [task.get_name() for task in request.app.state.work if task.done()]
    if ended:
        return JSONResponse({"status": "failed", "ended": ended}, 503)
    return JSONResponse({"status": "ok"})


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """Ready when the database answers and a healthy engine serves the live policy; else 503."""
    state = request.app.state
    fleet: Fleet = state.fleet
    router: Router = state.router
    route = router.find(state.settings.project)
    try:
        async with state.pool.connection(timeout=2) as connection:
            await connection.execute("select 1")
        database = True
    except (psycopg.OperationalError, PoolTimeout):
        database = False
    checks = {
        "database": database,
        "engine": bool(fleet.healthy),
        "policy": route is not None and fleet.serves(route.live),
    }
    ready = all(checks.values())
    body = {"status": "ready" if ready else "not_ready", "checks": checks}
    return JSONResponse(body, 200 if ready else 503, None if ready else {"Retry-After": "1"})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    text = await asyncio.to_thread(request.app.state.metrics.text)  # part of it is asked of the database
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
