"""The clients: `Hearken`, and `AsyncHearken` with the same methods to await."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import update_wrapper
from types import TracebackType
from typing import Any, Generic, ParamSpec, TypeVar

import httpx

from hearken_client import calls
from hearken_client.calls import Call
from hearken_client.errors import HearkenError, error_of

P = ParamSpec("P")
T = TypeVar("T")

_AGAIN = {429, 502, 503, 504}  # statuses that pass
_LONGEST_WAIT = 30.0  # seconds between two attempts


class Hearken:
    """A client of the service at `url` with one key. Use it in `with`, or `close` it. A request that is safe
    to repeat is sent again `retries` times. Each method raises HearkenError."""

    def __init__(self, url: str, key: str, *, timeout: float = 60, retries: int = 2) -> None:
        self._client = httpx.Client(**_options(url, key, timeout))
        self._retries = retries
        self.votes = _Votes(self)
        self.sessions = _Sessions(self)
        self.turns = _Turns(self)
        self.policies = _Policies(self)
        self.rollouts = _Rollouts(self)
        self.webhooks = _Webhooks(self)

    def __enter__(self) -> "Hearken":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def send(self, call: Call[T]) -> T:
        """Sends a request of `hearken_client.calls`."""
        attempt = 0
        while True:
            try:
                return _answer(call, self._client.request(**_request(call)))
            except (httpx.TransportError, HearkenError) as error:
                wait = _wait(call, error, attempt, self._retries)
                if wait is None:
                    raise _refusal(error) from error
            time.sleep(wait)
            attempt += 1


class AsyncHearken:
    """The same to await. Use it in `async with`, or `aclose` it."""

    def __init__(self, url: str, key: str, *, timeout: float = 60, retries: int = 2) -> None:
        self._client = httpx.AsyncClient(**_options(url, key, timeout))
        self._retries = retries
        self.votes = _AsyncVotes(self)
        self.sessions = _AsyncSessions(self)
        self.turns = _AsyncTurns(self)
        self.policies = _AsyncPolicies(self)
        self.rollouts = _AsyncRollouts(self)
        self.webhooks = _AsyncWebhooks(self)

    async def __aenter__(self) -> "AsyncHearken":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._client.aclose()

    async def send(self, call: Call[T]) -> T:
        """Sends a request of `hearken_client.calls`."""
        attempt = 0
        while True:
            try:
                return _answer(call, await self._client.request(**_request(call)))
            except (httpx.TransportError, HearkenError) as error:
                wait = _wait(call, error, attempt, self._retries)
                if wait is None:
                    raise _refusal(error) from error
            await asyncio.sleep(wait)
            attempt += 1


class _Part:
    def __init__(self, client: Hearken) -> None:
        self._client = client


class _AsyncPart:
    def __init__(self, client: AsyncHearken) -> None:
        self._client = client


class _Method(Generic[P, T]):
    """A method that sends the request of a function of `calls`, with the same parameters."""

    def __init__(self, call: Callable[P, Call[T]]) -> None:
        self._call = call

    def __get__(self, part: _Part, owner: type) -> Callable[P, T]:
        def method(*args: P.args, **kwargs: P.kwargs) -> T:
            return part._client.send(self._call(*args, **kwargs))

        return update_wrapper(method, self._call)


class _AsyncMethod(Generic[P, T]):
    """The same to await."""

    def __init__(self, call: Callable[P, Call[T]]) -> None:
        self._call = call

    def __get__(self, part: _AsyncPart, owner: type) -> Callable[P, Awaitable[T]]:
        def method(*args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
            return part._client.send(self._call(*args, **kwargs))

        return update_wrapper(method, self._call)


class _Votes(_Part):
    thumb = _Method(calls.thumb)
    rank = _Method(calls.rank)
    edit = _Method(calls.edit)
    signal = _Method(calls.signal)
    get = _Method(calls.get_vote)
    retract = _Method(calls.retract)


class _AsyncVotes(_AsyncPart):
    thumb = _AsyncMethod(calls.thumb)
    rank = _AsyncMethod(calls.rank)
    edit = _AsyncMethod(calls.edit)
    signal = _AsyncMethod(calls.signal)
    get = _AsyncMethod(calls.get_vote)
    retract = _AsyncMethod(calls.retract)


class _Sessions(_Part):
    create = _Method(calls.create_session)


class _AsyncSessions(_AsyncPart):
    create = _AsyncMethod(calls.create_session)


class _Turns(_Part):
    record = _Method(calls.record_turn)


class _AsyncTurns(_AsyncPart):
    record = _AsyncMethod(calls.record_turn)


class _Policies(_Part):
    list = _Method(calls.list_policies)
    get = _Method(calls.get_policy)
    promote = _Method(calls.promote_policy)
    roll_back = _Method(calls.roll_back_policy)
    reinstate = _Method(calls.reinstate_policy)


class _AsyncPolicies(_AsyncPart):
    list = _AsyncMethod(calls.list_policies)
    get = _AsyncMethod(calls.get_policy)
    promote = _AsyncMethod(calls.promote_policy)
    roll_back = _AsyncMethod(calls.roll_back_policy)
    reinstate = _AsyncMethod(calls.reinstate_policy)


class _Rollouts(_Part):
    list = _Method(calls.list_rollouts)
    start = _Method(calls.start_rollout)
    promote = _Method(calls.promote_rollout)
    roll_back = _Method(calls.roll_back_rollout)


class _AsyncRollouts(_AsyncPart):
    list = _AsyncMethod(calls.list_rollouts)
    start = _AsyncMethod(calls.start_rollout)
    promote = _AsyncMethod(calls.promote_rollout)
    roll_back = _AsyncMethod(calls.roll_back_rollout)


class _Webhooks(_Part):
    list = _Method(calls.list_webhooks)
    create = _Method(calls.create_webhook)
    delete = _Method(calls.delete_webhook)
    enable = _Method(calls.enable_webhook)
    replay = _Method(calls.replay_webhook)
    deliveries = _Method(calls.list_deliveries)


class _AsyncWebhooks(_AsyncPart):
    list = _AsyncMethod(calls.list_webhooks)
    create = _AsyncMethod(calls.create_webhook)
    delete = _AsyncMethod(calls.delete_webhook)
    enable = _AsyncMethod(calls.enable_webhook)
    replay = _AsyncMethod(calls.replay_webhook)
    deliveries = _AsyncMethod(calls.list_deliveries)


def _options(url: str, key: str, timeout: float) -> dict[str, Any]:
    base = url.rstrip("/").removesuffix("/v1")
    return {"base_url": base, "headers": {"Authorization": f"Bearer {key}"}, "timeout": timeout}


def _request(call: Call[T]) -> dict[str, Any]:
    return {
        "method": call.method,
        "url": call.path,
        "json": call.body,
        "params": call.query or None,
        "headers": call.headers,
    }


def _answer(call: Call[T], response: httpx.Response) -> T:
    """Raises HearkenError for an answer that is no success."""
    try:
        body = response.json() if response.content else None
    except ValueError:
        body = None
    if response.is_success:
        return call.answer(body)
    raise error_of(response.status_code, body, response.headers.get("Retry-After"))


def _wait(
    call: Call[T], error: httpx.TransportError | HearkenError, attempt: int, retries: int
) -> float | None:
    """Returns the seconds until the next attempt; None where there is none."""
    if not call.safe or attempt >= retries:
        return None
    if isinstance(error, HearkenError):
        if error.status not in _AGAIN:
            return None
        if error.retry_after is not None:
            return min(error.retry_after, _LONGEST_WAIT)
    return min(0.5 * 2.0**attempt, _LONGEST_WAIT)


def _refusal(error: httpx.TransportError | HearkenError) -> HearkenError:
    if isinstance(error, HearkenError):
        return error
    return HearkenError(f"The service does not answer: {str(error) or type(error).__name__}.")
