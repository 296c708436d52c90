"""The public API as simulated people and whoever measures them use it, with every failure counted.

A request that is told to come later (429) does so; any other failure raises RequestFailed, and whoever
asked goes on without it.
"""

import asyncio
import uuid
from collections import Counter
from types import TracebackType
from typing import Any

import httpx

from schemas.errors import HearkenError, StartError

_TIMEOUT = 120.0
_POLITE_RETRIES = 20


class RequestFailed(HearkenError):
    """A request had no answer, or an error for an answer."""


class Api:
    """One key's view of a running Hearken. `failures` counts what went wrong, by what was said."""

    def __init__(self, url: str, key: str) -> None:
        self.failures: Counter[str] = Counter()
        self._client = httpx.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=_TIMEOUT
        )

    async def __aenter__(self) -> "Api":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def check(self) -> None:
        """Raises StartError unless somebody answers there and knows the key."""
        try:
            await self._request("GET", "/v1/models")
        except RequestFailed as error:
            raise StartError(
                f"Cannot talk to {self._client.base_url}: {error.message}. Is `hearken up` running there, "
                "and is this its key?"
            ) from None

    async def chat(self, messages: list[dict[str, str]], **fields: Any) -> dict[str, Any]:
        """A completion; `fields` are the request's own (model, n, user, metadata, store, …)."""
        body = {"model": "default", "messages": messages, "temperature": 1.0, **fields}
        return await self._request("POST", "/v1/chat/completions", json=body)

    async def vote(self, completion: dict[str, Any], **vote: Any) -> str:
        """Votes on a completion, with the token that it came with; the id of the acknowledged vote."""
        token = completion["hearken"]["feedback_token"]
        body = {"completion_id": completion["id"], "feedback_token": token, **vote}
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        recorded = await self._request("POST", "/v1/feedback", json=body, headers=headers)
        return str(recorded["id"])

    async def feedback(self, vote: str) -> dict[str, Any]:
        """What is known of a vote, the policy that learned from it included."""
        return await self._request("GET", f"/v1/feedback/{vote}")

    async def _request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        for _ in range(_POLITE_RETRIES):
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

    def _failed(self, what: str) -> RequestFailed:
        self.failures[what] += 1
        return RequestFailed(what)
