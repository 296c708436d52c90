"""The one client of engine processes. It speaks the part of vLLM's HTTP API that Hearken uses, so the
embedded engine and vLLM differ by their URL only."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx

from schemas.errors import EngineError, InvalidRequest


@dataclass(frozen=True, slots=True)
class Delta:
    """What one event brought for one choice. `logprobs` are OpenAI's content items (`token`, `logprob` in
    nats, `bytes`, `top_logprobs`), one for each of `token_ids`, the end token included. `text` may be empty
    while a character or a stop string is incomplete. The prompt's ids come with the first delta."""

    choice: int
    text: str
    token_ids: list[int]
    logprobs: list[dict[str, Any]]
    finish_reason: str | None
    prompt_token_ids: list[int] | None


class Engine:
    """An engine at `url`. `timeout` is the longest wait for its next token, seconds. Any method raises
    EngineError when the engine fails or cannot be reached."""

    def __init__(self, url: str, timeout: float) -> None:
        self.url = url.rstrip("/")
        self._client = httpx.AsyncClient(
            base_url=self.url,
            timeout=httpx.Timeout(timeout, connect=5),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            trust_env=False,
        )

    async def stream(
        self, policy: str, messages: list[dict[str, Any]], sampling: dict[str, Any]
    ) -> AsyncGenerator[Delta]:
        """Generate as it happens; closing the iterator ends the generation. `sampling` has OpenAI's names.
        Raises InvalidRequest when the engine refuses the request itself."""
        body = {
            **sampling,
            "model": policy,
            "messages": messages,
            "stream": True,
            "logprobs": True,
            "return_token_ids": True,
        }
        prompt: list[int] | None = None
        try:
            async with self._client.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise self._refusal(response)
                async for event in _events(response):
                    if "error" in event:
                        raise EngineError(f"{self.url}: {event['error'].get('message')}", url=self.url)
                    prompt = event.get("prompt_token_ids") or prompt
                    for choice in event["choices"]:
                        # vLLM announces each choice with an empty chunk of its own.
                        if choice.get("token_ids") or choice["finish_reason"]:
                            yield _delta(choice, prompt)
                            prompt = None
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    async def load(self, policy: str, directory: Path) -> None:
        """Have the adapter resident. Loading what is already there succeeds: names are never reused."""
        body = {"lora_name": policy, "lora_path": str(directory)}
        response = await self._send("POST", "/v1/load_lora_adapter", body)
        if response.status_code != 200 and policy not in await self.adapters():
            raise self._failure(response)

    async def unload(self, policy: str) -> None:
        """Running replies finish on it. Unloading what is not there succeeds."""
        response = await self._send("POST", "/v1/unload_lora_adapter", {"lora_name": policy})
        if response.status_code not in (200, 404):
            raise self._failure(response)

    async def probe(self, policy: str, token_ids: list[int]) -> list[float]:
        """Log-probabilities (nats) of the prompt's own tokens, one for each after the first."""
        body = {"model": policy, "prompt": token_ids, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        response = await self._send("POST", "/v1/completions", body)
        if response.status_code != 200:
            raise self._failure(response)
        found = response.json()["choices"][0]["prompt_logprobs"]
        return [
            float(entry[str(token)]["logprob"]) for token, entry in zip(token_ids[1:], found[1:], strict=True)
        ]

    async def adapters(self) -> set[str]:
        """Names of the resident adapters; the base model itself is not one."""
        response = await self._send("GET", "/v1/models")
        if response.status_code != 200:
            raise self._failure(response)
        return {card["id"] for card in response.json()["data"] if card.get("parent")}

    async def close(self) -> None:
        await self._client.aclose()

    async def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        try:
            return await self._client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _refusal(self, response: httpx.Response) -> EngineError | InvalidRequest:
        """A 400 is the request's own fault. vLLM's codes are numbers, so an overlong prompt is known by its
        message."""
        if response.status_code != 400:
            return self._failure(response)
        error = _error(response)
        message, code = str(error.get("message", response.text)), error.get("code")
        if "maximum context length" in message:
            code = "context_length_exceeded"
        return InvalidRequest(message, code=code if isinstance(code, str) else None, param=error.get("param"))

    def _failure(self, response: httpx.Response) -> EngineError:
        message = _error(response).get("message", response.text)
        return EngineError(f"{self.url}: {message}", url=self.url, status=response.status_code)

    def _unreachable(self, error: httpx.HTTPError) -> EngineError:
        return EngineError(f"{self.url} does not answer: {error or type(error).__name__}", url=self.url)


async def _events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The JSON of each server-sent event. Lines end at a newline only: httpx's own splitting would also cut
    at U+2028, which a reply may hold. Raises httpx.RemoteProtocolError when the stream breaks off."""
    rest = b""
    async for piece in response.aiter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data: [DONE]"):
                return
            if line.startswith(b"data: "):
                yield json.loads(line[6:])
    raise httpx.RemoteProtocolError("the stream broke off")


def _error(response: httpx.Response) -> dict[str, Any]:
    """The error object, wherever this engine's version puts it; empty for a body that is not JSON."""
    try:
        body = response.json()
    except ValueError:
        return {}
    return cast(dict[str, Any], body.get("error", body)) if isinstance(body, dict) else {}


def _delta(choice: dict[str, Any], prompt: list[int] | None) -> Delta:
    return Delta(
        choice=choice["index"],
        text=choice["delta"].get("content") or "",
        token_ids=choice.get("token_ids") or [],
        logprobs=(choice.get("logprobs") or {}).get("content") or [],
        finish_reason=choice["finish_reason"],
        prompt_token_ids=prompt,
    )
