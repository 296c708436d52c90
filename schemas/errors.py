"""Every error that Hearken raises on purpose, each carrying what its reader needs.

HearkenError
├── RequestError            answered to a client in OpenAI's envelope
│   ├── InvalidRequest      400  a field of the request is wrong
│   ├── Unauthorized        401  no key, or one that we do not know
│   ├── Forbidden           403  the key may not do this
│   ├── NotFound            404  no such model, completion, feedback, policy
│   ├── Conflict            409  contradicts what is stored
│   ├── TooLarge            413  the body is over the byte limit
│   ├── RateLimited         429  with Retry-After
│   └── Unavailable         503  no engine can answer now; with Retry-After
├── EngineError             an engine process answered with an error, or not at all
├── PolicyRejected          a policy directory or adapter that must not serve
└── StartError              this installation cannot start; says what to do
"""

from typing import Any, Literal


class HearkenError(Exception):
    """Base of all errors raised on purpose. `message` says what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class RequestError(HearkenError):
    """An error answered to a client. `code` is stable and made for machines; `param` names the field."""

    status = 500
    type = "server_error"
    default_code = "internal_error"

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code or self.default_code
        self.param = param

    def envelope(self) -> dict[str, Any]:
        """The body: `{"error": {"message", "type", "param", "code"}}`."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        return {}


class InvalidRequest(RequestError):
    status = 400
    type = "invalid_request_error"
    default_code = "invalid_value"


class Unauthorized(RequestError):
    status = 401
    type = "authentication_error"
    default_code = "invalid_api_key"

    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class Forbidden(RequestError):
    status = 403
    type = "permission_error"
    default_code = "forbidden"


class NotFound(RequestError):
    status = 404
    type = "invalid_request_error"
    default_code = "not_found"


class Conflict(RequestError):
    status = 409
    type = "conflict_error"
    default_code = "conflict"


class TooLarge(RequestError):
    status = 413
    type = "invalid_request_error"
    default_code = "body_too_large"


class _Later(RequestError):
    """Worth trying again after `retry_after` seconds."""

    def __init__(self, message: str, *, retry_after: int = 1, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after

    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after)}


class RateLimited(_Later):
    status = 429
    type = "rate_limit_error"
    default_code = "rate_limit_exceeded"


class Unavailable(_Later):
    status = 503
    type = "service_unavailable"
    default_code = "no_engine"


class EngineError(HearkenError):
    """An engine at `url` failed. `status` is its HTTP status, None when there was no answer; then it is
    `gone` if nothing listens there, and `late` if it said nothing in time."""

    def __init__(
        self, message: str, *, url: str, status: int | None = None, gone: bool = False, late: bool = False
    ) -> None:
        super().__init__(message)
        self.url = url
        self.status = status
        self.gone = gone
        self.late = late


Reason = Literal[
    "missing", "unexpected_file", "pickle", "digest", "truncated", "malformed", "wrong_base", "not_finite",
    "load", "probe", "parent_rolled_back",
]  # fmt: skip
"""Why a policy must not serve."""


class PolicyRejected(HearkenError):
    """A policy that must not serve. They are counted in the metrics by `reason`."""

    def __init__(self, message: str, *, policy: str, reason: Reason) -> None:
        super().__init__(message)
        self.policy = policy
        self.reason = reason


class StartError(HearkenError):
    """This installation cannot start (port taken, disk full, folder locked, database newer…)."""
