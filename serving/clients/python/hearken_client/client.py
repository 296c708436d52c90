"""The clients: `Hearken`, and `AsyncHearken` with the same methods to await."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import update_wrapper
from itertools import count
from types import TracebackType
from typing import Any, Generic, ParamSpec, TypeVar, overload

import httpx

from hearken_client import calls
from hearken_client.calls import Call
from hearken_client.errors import HearkenError, error_of

P = ParamSpec("P")
T = TypeVar("T")
Client = TypeVar("Client", bound="Hearken | AsyncHearken")

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
        attempts = count()
        while True:
            try:
                return _answer(call, self._client.request(**_request(call)))
            except (httpx.TransportError, HearkenError) as error:
                wait = _wait(call, error, next(attempts), self._retries)
            time.sleep(wait)


class AsyncHearken:
    """The same to await. Use it in `async with`, or `aclose` it."""

    def __init__(self, url: str, key: str, *, timeout: float = 60, retries: int = 2) -> None:
        self._client = httpx.AsyncClient(**_options(url, key, timeout))
        self._retries = retries
        self.votes = _Votes(self)
        self.sessions = _Sessions(self)
        self.turns = _Turns(self)
        self.policies = _Policies(self)
        self.rollouts = _Rollouts(self)
        self.webhooks = _Webhooks(self)

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
        attempts = count()
        while True:
            try:
                return _answer(call, await self._client.request(**_request(call)))
            except (httpx.TransportError, HearkenError) as error:
                wait = _wait(call, error, next(attempts), self._retries)
            await asyncio.sleep(wait)


class _Part(Generic[Client]):
    """A part of the API, whose methods send by the client that has it."""

    def __init__(self, client: Client) -> None:
        self._client = client


class _Method(Generic[P, T]):
    """A method that sends the request of a function of `calls`, with the same parameters; of `AsyncHearken`
    its answer is awaited."""

    def __init__(self, call: Callable[P, Call[T]]) -> None:
        self._call = call

    @overload
    def __get__(self, part: _Part[Hearken], owner: type) -> Callable[P, T]: ...

    @overload
    def __get__(self, part: _Part[AsyncHearken], owner: type) -> Callable[P, Awaitable[T]]: ...

    def __get__(self, part: Any, owner: type) -> Callable[P, Any]:
        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return part._client.send(self._call(*args, **kwargs))

        return update_wrapper(method, self._call)


class _Votes(_Part[Client]):
    thumb = _Method(calls.thumb)
    rank = _Method(calls.rank)
    edit = _Method(calls.edit)
    signal = _Method(calls.signal)
    get = _Method(calls.get_vote)
    retract = _Method(calls.retract)


class _Sessions(_Part[Client]):
    create = _Method(calls.create_session)


class _Turns(_Part[Client]):
    record = _Method(calls.record_turn)


class _Policies(_Part[Client]):
    list = _Method(calls.list_policies)
    get = _Method(calls.get_policy)
    promote = _Method(calls.promote_policy)
    roll_back = _Method(calls.roll_back_policy)
    reinstate = _Method(calls.reinstate_policy)


class _Rollouts(_Part[Client]):
    list = _Method(calls.list_rollouts)
    start = _Method(calls.start_rollout)
    promote = _Method(calls.promote_rollout)
    roll_back = _Method(calls.roll_back_rollout)


class _Webhooks(_Part[Client]):
    list = _Method(calls.list_webhooks)
    create = _Method(calls.create_webhook)
    delete = _Method(calls.delete_webhook)
    enable = _Method(calls.enable_webhook)
    replay = _Method(calls.replay_webhook)
    deliveries = _Method(calls.list_deliveries)


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


def _wait(call: Call[T], error: httpx.TransportError | HearkenError, attempt: int, retries: int) -> float:
    """Returns the seconds until the next attempt. Raises HearkenError where there is none."""
    may_repeat = call.safe and attempt < retries
    if isinstance(error, HearkenError):
        if not may_repeat or error.status not in _AGAIN:
            raise error
        if error.retry_after is not None:
            return min(error.retry_after, _LONGEST_WAIT)
    elif not may_repeat:
        found = str(error) or type(error).__name__
        raise HearkenError(f"The service does not answer: {found}.") from error
    return min(0.5 * 2.0**attempt, _LONGEST_WAIT)
