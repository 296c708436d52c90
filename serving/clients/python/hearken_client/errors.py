"""What a client raises."""

from typing import Any


class HearkenError(Exception):
    """Raised when the service refuses a request, or does not answer (`status` is None then). `code` is stable
    and for programs, `param` names the field that is wrong, and `retry_after` says when to come again, in
    seconds."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.param = param
        self.retry_after = retry_after


def error_of(status: int, body: Any, retry_after: str | None) -> HearkenError:
    """Returns the error of an answer, whose body is OpenAI's envelope where the service itself sent it."""
    said = body.get("error") if isinstance(body, dict) else None
    said = said if isinstance(said, dict) else {}
    return HearkenError(
        str(said.get("message") or f"The service answered {status}."),
        status=status,
        code=said.get("code"),
        param=said.get("param"),
        retry_after=float(retry_after) if retry_after and retry_after.isdecimal() else None,
    )
