"""The log of requests: which one, how it ended, how long it took. Never what people wrote."""

import secrets
import time
from typing import Any

import structlog
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from schemas.errors import InvalidRequest, RequestError
from serving.envelope import InternalError

log = structlog.get_logger()

_ROUTINE = ("/healthz", "/readyz", "/metrics")  # asked for every few seconds by machines


class RequestLog:
    """Names each request, logs and counts its end, and turns what nobody expected into a plain 500."""

    def __init__(self, app: ASGIApp, state: Any) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req-{secrets.token_hex(8)}"
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        begun = time.monotonic()
        status = 0

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
                message = {**message, "headers": headers}
            await send(message)

        async def fail(error: RequestError) -> None:
            self._state.metrics.refused.labels(error.code).inc()
            await JSONResponse(error.envelope(), error.status)(scope, receive, named)

        try:
            if "\0" in scope["path"] or b"%00" in scope["query_string"]:
                await fail(InvalidRequest("The address holds a NUL.", code="invalid_text"))
            else:
                await self._app(scope, receive, named)
        except ClientDisconnect:  # before it had sent its whole request
            log.info("client_gone")
        except Exception:
            log.exception("request_failed")
            if status:
                raise
            await fail(InternalError(request_id))
        finally:
            self._record(scope, status, time.monotonic() - begun)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self._state.metrics.requests.labels(route, scope["method"], status).inc()
        self._state.metrics.seconds.labels(route).observe(seconds)
        tell = log.debug if route in _ROUTINE else log.info
        tell(
            "request",
            method=scope["method"],
            route=route,
            status=status,  # 0: the client left before there was one
            seconds=round(seconds, 4),
            key=scope.get("state", {}).get("key_id"),
        )
