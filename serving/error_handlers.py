"""Exception handlers answer every failure in OpenAI's error envelope: bad requests, missing resources, failed
dependencies, and bugs. `to_request_error` does the same where a stream or websocket has begun."""

import psycopg
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from psycopg_pool import PoolTimeout
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from schemas.errors import EngineError, InvalidRequest, RequestError, Unavailable
from schemas.wire import path
from serving.services import services

log = structlog.get_logger()

TRANSIENT_ERRORS = (EngineError, psycopg.OperationalError, PoolTimeout)
"""Failures of a dependency, after which the client is told to retry."""


class RouteError(RequestError):
    """Starlette found no such route, or not with this method. The client should check both."""

    type = "invalid_request_error"

    def __init__(self, error: HTTPException) -> None:
        super().__init__(
            f"{error.detail}: check the address and the method.",
            code="method_not_allowed" if error.status_code == 405 else "not_found",
        )
        self.status = error.status_code
        self._headers = dict(error.headers or {})

    def headers(self) -> dict[str, str]:
        return self._headers


class InternalError(RequestError):
    """A bug in this service. The client gets an id; the operator finds the traceback in the log under it."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"An internal error occurred; the server's log has it under {request_id}.")


def to_request_error(error: Exception) -> RequestError:
    """Returns the client's version of a RequestError or of one of TRANSIENT_ERRORS."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, EngineError):
        return Unavailable("The engine failed while it answered; try again.", code="engine_failed")
    return Unavailable("The database does not answer; try again soon.", code="database_unavailable")


def _respond(request: Request, error: RequestError) -> Response:
    services(request).metrics.refused.labels(error.code).inc()
    return JSONResponse(error.envelope(), error.status, error.headers())


def install(app: FastAPI) -> None:
    """Registers the handlers on the application."""

    @app.exception_handler(RequestError)
    async def request_error(request: Request, error: RequestError) -> Response:
        return _respond(request, error)

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> Response:
        problem = error.errors()[0]
        param = path(*problem["loc"][1:])
        return _respond(request, InvalidRequest(f"{param}: {problem['msg']}.", param=param or None))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        return _respond(request, RouteError(error))

    async def transient_error(request: Request, error: Exception) -> Response:
        log.error("dependency_failed", error=type(error).__name__, detail=str(error).splitlines()[:1])
        return _respond(request, to_request_error(error))

    for kind in TRANSIENT_ERRORS:
        app.add_exception_handler(kind, transient_error)
