"""An asynchronous client of the public API serves simulated users and the evaluation.

It retries a request that was rate-limited (429). Any other failure is counted and raises RequestFailed, so
that the caller can go on without that request.
"""

import asyncio
import uuid
from collections import Counter
from types import TracebackType
from typing import Any

import httpx

from schemas.errors import HearkenError, StartError

_TIMEOUT = 120.0  # seconds
_RATE_LIMIT_RETRIES = 20


class RequestFailed(HearkenError):
    """Raised when a request got no answer, or an error as its answer; the simulation goes on without it."""


class ApiClient:
    """A client with one API key. `failures` counts failed requests by message."""

    def __init__(self, url: str, key: str) -> None:
        self.failures: Counter[str] = Counter()
        self._client = httpx.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=_TIMEOUT
        )

    async def __aenter__(self) -> "ApiClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def check(self) -> None:
        """Raises StartError unless the service answers and accepts the key."""
        try:
            await self._request("GET", "/v1/models")
        except RequestFailed as error:
            raise StartError(
                f"Cannot talk to {self._client.base_url}: {error.message}. Is `hearken up` running there, "
                "and is this its key?"
            ) from None

    async def chat(self, messages: list[dict[str, str]], **fields: Any) -> dict[str, Any]:
        """Returns a completion; `fields` are fields of the request (model, n, user, metadata, store, …)."""
        body = {"model": "default", "messages": messages, **fields}
        return await self._request("POST", "/v1/chat/completions", json=body)

    async def vote(self, completion: dict[str, Any], **vote: Any) -> str:
        """Votes on a completion with its own feedback token; returns the id of the acknowledged vote."""
        token = completion["hearken"]["feedback_token"]
        body = {"completion_id": completion["id"], "feedback_token": token, **vote}
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        recorded = await self._request("POST", "/v1/feedback", json=body, headers=headers)
        return str(recorded["id"])

    async def feedback(self, vote: str) -> dict[str, Any]:
        """Returns the record of a vote, which names the policy that first learned from it."""
        return await self._request("GET", f"/v1/feedback/{vote}")

    async def _request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        for _ in range(_RATE_LIMIT_RETRIES):
            try:
                response = await self._client.request(method, path, **options)
            except httpx.HTTPError as error:
                raise self._failed(f"{type(error).__name__} {error}".strip()) from None
            if response.status_code != httpx.codes.TOO_MANY_REQUESTS:
                break
            await asyncio.sleep(float(response.headers.get("Retry-After", "1")))
        if not response.is_success:
            raise self._failed(f"{response.status_code} {response.text[:200]}")
        return dict(response.json())

    def _failed(self, message: str) -> RequestFailed:
        self.failures[message] += 1
        return RequestFailed(message)
