"""Every failure in OpenAI's envelope: what a client did wrong, what is missing, what broke here.

Handlers for the whole application, and one translation for places that answer inside a stream or socket.
"""

import psycopg
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from psycopg_pool import PoolTimeout
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from schemas.errors import EngineError, InvalidRequest, RequestError, Unavailable
from schemas.wire import path

log = structlog.get_logger()

# What the service recovers from by telling the client to come back.
PASSING = (EngineError, psycopg.OperationalError, PoolTimeout)


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
        super().__init__(f"Something broke here; it is in the log as {request_id}.")


def as_request_error(error: Exception) -> RequestError:
    """What to tell a client about an error that has a name in PASSING, or is for clients already."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, EngineError):
        return Unavailable("The engine failed while it answered; try again.", code="engine_failed")
    return Unavailable("The database does not answer; try again soon.", code="database_unavailable")


def respond(request: Request, error: RequestError) -> Response:
    """The error as a response, counted."""
    request.app.state.metrics.refused.labels(error.code).inc()
    return JSONResponse(error.envelope(), error.status, error.headers())


def install(app: FastAPI) -> None:
    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> Response:
        return respond(request, error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        problem = error.errors()[0]
        param = path(*problem["loc"][1:])
        return respond(request, InvalidRequest(f"{param}: {problem['msg']}.", param=param or None))

    @app.exception_handler(HTTPException)
    async def unrouted(request: Request, error: HTTPException) -> Response:
        return respond(request, RouteError(error))

    async def passing(request: Request, error: Exception) -> Response:
        log.error("not_answered", error=type(error).__name__, detail=str(error).splitlines()[:1])
        return respond(request, as_request_error(error))

    for kind in PASSING:
        app.add_exception_handler(kind, passing)
