"""Hearken's errors form one tree. Each carries what its reader needs, and its message says what to do.

HearkenError
├── RequestError               answered to a client in OpenAI's envelope, with the status beside it
│   ├── InvalidRequest         400  a field of the request is wrong
│   ├── Unauthorized           401  the key is missing or unknown
│   ├── Forbidden              403  the key may not do this
│   ├── NotFound               404  there is no such model, completion, feedback, policy
│   │   └── TurnMissing        404  no turn has this id                       (feedback.store)
│   ├── Conflict               409  the request contradicts what is stored
│   ├── TooSlow                408  the body does not come
│   ├── Misdirected            421  the Host header names another service
│   ├── TooLarge               413  the body is over the byte limit
│   ├── RetryLater             with Retry-After
│   │   ├── RateLimited        429  too many requests
│   │   └── Unavailable        503  no engine can answer now
│   ├── RouteError             404, 405  there is no such route or method     (serving.error_handlers)
│   └── InternalError          500  a bug; the log has it                     (serving.error_handlers)
├── EngineError                an engine process failed, or does not answer
├── PolicyRejected             a policy directory or adapter must not serve
├── StartError                 this installation cannot start
├── MalformedRow               a row of a dataset fits no layout
├── InvalidReceipt             a receipt is not as it was signed             (feedback.receipt)
├── DataLost                   the broker lost acknowledged events            (feedback.relay)
├── NotYet                     an entry of the spool waits for another one   (feedback.spool)
├── NoVerdict                  the judge gave none                            (feedback.judge_client)
│   └── Unreachable            it was away, or too busy to read the question  (feedback.judge_client)
├── AdapterError               a directory is no adapter of this base         (serving.embedded.lora)
├── ClientDisconnected         a client left before its answer                (serving.embedded.server)
├── LeadershipLost             another trainer took over this one's round     (trainer.records.publish)
├── WorkerOutOfSync            a distributed round failed in one process      (trainer.learner)
├── Erased                     data that a round trained on is gone           (trainer.data.examples)
├── RowsMissing                the rows of compacted votes are gone           (trainer.data.vote_rows)
├── Diverged                   a reproduced round took other steps            (trainer.model.rollouts)
├── NotReproducible            a policy cannot be reproduced                  (trainer.records.published)
├── FileDamaged                the rest of an imported file is unreadable     (deploy.datasets.row_files)
└── RequestFailed              a request of the simulation failed             (deploy.simulation.api_client)
"""

from typing import Any, Literal


class HearkenError(Exception):
    """Base of every error that Hearken defines. `message` says what happened and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class RequestError(HearkenError):
    """An error answered to a client. `code` is stable and for machines; `param` names the field."""

    status = 500
    type = "server_error"
    default_code = "internal_error"

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code or self.default_code
        self.param = param

    def envelope(self) -> dict[str, Any]:
        """Returns the body: `{"error": {"message", "type", "param", "code"}}`."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        return {}


class InvalidRequest(RequestError):
    """Raised when a field of a request is missing, unknown or wrong. The client corrects `param`."""

    status = 400
    type = "invalid_request_error"
    default_code = "invalid_value"


class Unauthorized(RequestError):
    """Raised when a request has no key, or an unknown, expired or revoked one. The client sends a valid
    key."""

    status = 401
    type = "authentication_error"
    default_code = "invalid_api_key"

    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class Forbidden(RequestError):
    """Raised when a valid key may not do this. The client uses the kind of key that the message names."""

    status = 403
    type = "permission_error"
    default_code = "forbidden"


class NotFound(RequestError):
    """Raised when a model, completion, feedback or policy does not exist. The client checks its id."""

    status = 404
    type = "invalid_request_error"
    default_code = "not_found"


class Conflict(RequestError):
    """Raised when a request contradicts what is stored, as a reused Idempotency-Key does. The client reads
    the current state and sends another request."""

    status = 409
    type = "conflict_error"
    default_code = "conflict"


class TooSlow(RequestError):
    """Raised when a body does not come within a minute. The client sends it in one go."""

    status = 408
    type = "invalid_request_error"
    default_code = "request_timeout"


class Misdirected(RequestError):
    """Raised when the Host header names another service. The client asks by the right name; an operator adds
    it to `serving.allowed_hosts`."""

    status = 421
    type = "invalid_request_error"
    default_code = "wrong_host"


class TooLarge(RequestError):
    """Raised when a body is over `serving.max_body_bytes`. The client sends less."""

    status = 413
    type = "invalid_request_error"
    default_code = "body_too_large"


class RetryLater(RequestError):
    """An error that passes. The client sends the same request again after `retry_after` seconds."""

    def __init__(self, message: str, *, retry_after: int = 1, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after

    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after)}


class RateLimited(RetryLater):
    """Raised when a key or an address is over its limit. The client waits; an operator may raise the
    limit."""

    status = 429
    type = "rate_limit_error"
    default_code = "rate_limit_exceeded"


class Unavailable(RetryLater):
    """Raised when no engine, or no database, can answer now. The client waits; the operator reads the log."""

    status = 503
    type = "service_unavailable"
    default_code = "no_engine"


class EngineError(HearkenError):
    """Raised when the engine at `url` fails. `status` is its HTTP status, None without an answer; then `gone`
    means that nothing listens there, and `late` that a timeout passed. Serving tries another replica, or
    answers Unavailable; the operator looks at the engine."""

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
    "load", "probe", "engine_error", "timeout", "engine_down", "parent_rolled_back", "symlink", "oversized",
    "unsigned", "signature", "another_policy",
]  # fmt: skip
"""Why a policy must not serve."""


class PolicyRejected(HearkenError):
    """Raised when `policy` must not serve. Serving marks it rejected and counts it by `reason` in the
    metrics; the operator restores its directory, or lets the next round replace it."""

    def __init__(self, message: str, *, policy: str, reason: Reason) -> None:
        super().__init__(message)
        self.policy = policy
        self.reason = reason


class StartError(HearkenError):
    """Raised when a process cannot start: a port is taken, a disk full, a folder locked, a database newer.
    The command prints the message, which says what to change, and exits."""


class MalformedRow(HearkenError):
    """Raised when a row of a dataset fits no layout. The importer reports the row and continues; its author
    corrects it."""
