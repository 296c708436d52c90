"""The one client of engine processes. It speaks the part of vLLM's HTTP API that Hearken uses, so the
embedded engine and vLLM differ by their URL only.

Tokens that arrive together go on together: what one read of the socket brought for a choice is one delta, so
a process that cannot keep up works less for each token, and one that can adds no delay.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import aiohttp
import orjson

from schemas.errors import EngineError, InvalidRequest

_IDLE = 3.0  # seconds that an idle connection is kept: less than engines do, which end it after 5
_ENDING = 1.0  # seconds that a response may take to end after its last event


@dataclass(slots=True)
class Delta:
    """What came for one choice at once. `logprobs` are OpenAI's content items (`token`, `logprob` in
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
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=timeout)
        self._session: aiohttp.ClientSession | None = None
        self._answers: set[aiohttp.ClientResponse] = set()

    async def stream(
        self, policy: str, messages: list[dict[str, Any]], sampling: dict[str, Any]
    ) -> AsyncGenerator[Delta]:
        """Generate as it happens; closing the iterator ends the generation. `sampling` has OpenAI's names.
        Raises InvalidRequest when the engine refuses the request itself."""
        tops = sampling.get("top_logprobs") or 0
        body = {
            **sampling,
            "top_logprobs": tops + 1 if tops else 0,  # vLLM's first is the token itself, likely or not
            "model": policy,
            "messages": messages,
            "stream": True,
            "logprobs": True,
            "return_token_ids": True,
        }
        prompt: list[int] | None = None
        async with self._answer("POST", "/v1/chat/completions", body) as response:
            if response.status != 200:
                raise self._refusal(response.status, await response.read())
            async for events in _events(response):
                for event in events:
                    prompt = event.get("prompt_token_ids") or prompt
                for delta in self._deltas(events, tops):
                    delta.prompt_token_ids, prompt = prompt, None
                    yield delta

    async def load(self, policy: str, directory: Path) -> None:
        """Have the adapter resident. Loading what is already there succeeds: names are never reused."""
        body = {"lora_name": policy, "lora_path": str(directory)}
        status, answer = await self._send("POST", "/v1/load_lora_adapter", body)
        if status != 200 and policy not in await self.adapters():
            raise self._failure(status, answer)

    async def unload(self, policy: str) -> None:
        """Running replies finish on it. Unloading what is not there succeeds."""
        status, answer = await self._send("POST", "/v1/unload_lora_adapter", {"lora_name": policy})
        if status not in (200, 404):
            raise self._failure(status, answer)

    async def probe(self, policy: str, token_ids: list[int], places: Iterable[int]) -> list[float]:
        """Log-probability (nats) of the token at each of `places` (from 1), after those before it.

        Each is generated as the only token that is allowed. To ask for `prompt_logprobs` of the whole would
        be one request, which vLLM 0.32 does not survive where replies of adapters share a batch with it:
        measured, its engine died of every probe under load ("einsum(): subscript b has size 9 …").
        """
        return await asyncio.gather(*(self._likely(policy, token_ids[:at], token_ids[at]) for at in places))

    async def _likely(self, policy: str, prompt: list[int], token: int) -> float:
        body = {
            "model": policy, "prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": 0,
            "allowed_token_ids": [token],
        }  # fmt: skip
        status, answer = await self._send("POST", "/v1/completions", body)
        if status != 200:
            raise self._failure(status, answer)
        return float(orjson.loads(answer)["choices"][0]["logprobs"]["token_logprobs"][0])

    async def adapters(self) -> set[str]:
        """Names of the resident adapters; the base model itself is not one."""
        status, answer = await self._send("GET", "/v1/models")
        if status != 200:
            raise self._failure(status, answer)
        return {card["id"] for card in orjson.loads(answer)["data"] if card.get("parent")}

    async def check(self) -> None:
        """Returns when the engine says that it is well; vLLM's says so only while its core lives."""
        status, answer = await self._send("GET", "/health")
        if status != 200:
            raise self._failure(status, answer)

    async def close(self) -> None:
        """End whatever is under way: those who wait get EngineError. The next request begins anew."""
        session, self._session = self._session, None
        if session is not None:
            for response in self._answers:  # a session that is closed leaves those who read waiting for ever
                response.content.set_exception(aiohttp.ClientConnectionError("it was given up"))
            await session.close()

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self._request(method, path, body) as response:
                self._answers.add(response)
                try:
                    yield response
                finally:
                    self._answers.discard(response)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._unreachable(error) from error

    def _request(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> "aiohttp.client._RequestContextManager":
        if self._session is None:  # it belongs to the event loop that runs now
            self._session = aiohttp.ClientSession(
                timeout=self._timeout,
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        data = orjson.dumps(body) if body is not None else None
        headers = {"Content-Type": "application/json"} if data else None
        return self._session.request(method, self.url + path, data=data, headers=headers)

    async def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, bytes]:
        async with self._answer(method, path, body) as response:
            return response.status, await response.read()

    def _deltas(self, events: list[dict[str, Any]], tops: int) -> Iterator[Delta]:
        """One for each choice that the events say something of, in their order; vLLM announces each by an
        empty event of its own. A record that is not whole is none, so it is an error."""
        found: dict[int, Delta] = {}
        for event in events:
            if "error" in event:
                raise EngineError(f"{self.url}: {event['error'].get('message')}", url=self.url)
            for choice in event["choices"]:
                index = choice["index"]
                delta = found.get(index)
                if delta is None:
                    delta = found[index] = Delta(index, "", [], [], None, None)
                delta.text += choice["delta"].get("content") or ""
                delta.token_ids += choice.get("token_ids") or ()
                delta.logprobs += (choice.get("logprobs") or {}).get("content") or ()
                delta.finish_reason = choice["finish_reason"] or delta.finish_reason
        for delta in found.values():
            if len(delta.token_ids) != len(delta.logprobs):
                raise EngineError(
                    f"{self.url}: {len(delta.token_ids)} tokens came with {len(delta.logprobs)} logprobs",
                    url=self.url,
                )
            if delta.token_ids or delta.finish_reason:
                for item in delta.logprobs:
                    item["top_logprobs"] = _likeliest(item["top_logprobs"], tops)
                yield delta

    def _refusal(self, status: int, answer: bytes) -> EngineError | InvalidRequest:
        """A 400 is the request's own fault. vLLM's codes are numbers, so what does not fit is known by its
        message."""
        if status != 400:
            return self._failure(status, answer)
        error = _error(answer)
        message, code = str(error.get("message", answer.decode(errors="replace"))), error.get("code")
        if "maximum context length" in message or "max_model_len" in message:
            code = "context_length_exceeded"
        return InvalidRequest(message, code=code if isinstance(code, str) else None, param=error.get("param"))

    def _failure(self, status: int, answer: bytes) -> EngineError:
        message = _error(answer).get("message", answer.decode(errors="replace"))
        return EngineError(f"{self.url}: {message}", url=self.url, status=status)

    def _unreachable(self, error: Exception) -> EngineError:
        return EngineError(
            f"{self.url} does not answer: {error or type(error).__name__}",
            url=self.url,
            gone=isinstance(error, aiohttp.ClientConnectorError)
            and isinstance(error.os_error, ConnectionRefusedError),
            late=isinstance(error, TimeoutError),
        )


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[list[dict[str, Any]]]:
    """The JSON of the server-sent events that each read brought. Lines end at a newline only: a reply may
    hold U+2028. Raises aiohttp.ClientPayloadError when the stream breaks off."""
    rest = b""
    async for piece in response.content.iter_any():
        *lines, rest = (rest + piece).split(b"\n")
        events: list[dict[str, Any]] = []
        for line in lines:
            if line.startswith(b"data: [DONE]"):
                if events:
                    yield events
                await _end(response)
                return
            if line.startswith(b"data: "):
                events.append(orjson.loads(line[6:]))
        if events:
            yield events
    raise aiohttp.ClientPayloadError("the stream broke off")


async def _end(response: aiohttp.ClientResponse) -> None:
    """Read to the end of a response that has said all, which gives its connection back: else the next request
    opens a new one, and waits until the engine, between two steps, takes it."""
    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(_ENDING):
            await response.content.read()


def _likeliest(tops: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    return sorted(tops, key=lambda top: top["logprob"], reverse=True)[:count] if tops else tops


def _error(answer: bytes) -> dict[str, Any]:
    """The error object, wherever this engine's version puts it; empty for a body that is not JSON."""
    try:
        body = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return {}
    return cast(dict[str, Any], body.get("error", body)) if isinstance(body, dict) else {}
