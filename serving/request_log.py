"""The request log is ASGI middleware that logs and counts each request: id, route, status, duration. It never
logs what people wrote."""

import secrets
import time

import structlog
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from schemas.errors import InvalidRequest, RequestError
from serving.error_handlers import InternalError
from serving.metrics import Metrics

log = structlog.get_logger()

_PROBE_ROUTES = ("/healthz", "/readyz", "/metrics")  # requested by machines every few seconds


class RequestLog:
    """Gives each request an id, logs and counts how it ended, and turns unexpected exceptions into a 500."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req-{secrets.token_hex(8)}"
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        started = time.monotonic()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
                message = {**message, "headers": headers}
            await send(message)

        async def fail(error: RequestError) -> None:
            self._metrics.refused.labels(error.code).inc()
            await JSONResponse(error.envelope(), error.status)(scope, receive, send_with_id)

        try:
            if "\0" in scope["path"] or b"%00" in scope["query_string"]:
                await fail(InvalidRequest("The address contains a NUL character.", code="invalid_text"))
            else:
                await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            log.info("client_disconnected")
        except Exception:
            log.exception("request_failed")
            if status:
                raise
            await fail(InternalError(request_id))
        finally:
            self._record(scope, status, time.monotonic() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.requests.labels(route, scope["method"], status).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        write = log.debug if route in _PROBE_ROUTES else log.info
        write(
            "request",
            method=scope["method"],
            route=route,
            status=status,  # 0: the client disconnected before the response began
            seconds=round(seconds, 4),
            key=scope.get("state", {}).get("key_id"),
        )
