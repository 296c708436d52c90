"""The engine client speaks the part of vLLM's HTTP API that Hearken uses; the embedded engine speaks it too,
so the two differ by their URL only.

All tokens of a choice that one socket read brings become one delta: a busy process does less work per token,
and an idle one adds no delay.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from schemas.errors import EngineError, InvalidRequest

ENGINE_TITLE = "the embedded engine"
"""What the embedded engine calls itself in its schema."""

TASTES_PATH = "/v1/tastes"
"""The path at which the embedded engine scores replies by a taste model. vLLM has none."""

KEY_VARIABLE = "VLLM_API_KEY"
"""The environment variable of an engine, vLLM or the embedded one, with the key that it asks for."""

_UNABLE = ("tool choice requires", "not a multimodal model", "may be provided in one prompt")
"""What vLLM says where it was not started for what a request needs."""

_MALFORMED = (ValueError, KeyError, IndexError, TypeError, AttributeError)  # of JSON that is not as expected
_KEEPALIVE = 3.0  # seconds that an idle connection is kept; engines close theirs after 5
_DRAIN_TIMEOUT = 1.0  # seconds for a response to end after its last event


@dataclass(slots=True)
class Delta:
    """New tokens of one choice. `logprobs` are OpenAI's content items (`token`, `logprob` in nats, `bytes`,
    `top_logprobs`), one for each of `token_ids`, the end token included. `text` may be empty while a
    character or a stop string is incomplete; `reasoning` is the new part of a thought, `tool_calls` the new
    parts of tool calls, as OpenAI streams them. The prompt's ids come with the first delta."""

    choice: int
    text: str
    token_ids: list[int]
    logprobs: list[dict[str, Any]]
    finish_reason: str | None
    prompt_token_ids: list[int] | None
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class EngineDescription:
    """What an engine is called, the fields that its chat requests have (None where it does not say), and the
    paths that it serves."""

    name: str = "the engine"
    fields: frozenset[str] | None = None
    paths: frozenset[str] = frozenset()


class EngineClient:
    """A client of the engine at `url`, which asks for `key` if that is given. `timeout` is the longest wait
    for the next token, seconds. Every method raises EngineError when the engine fails or cannot be
    reached."""

    def __init__(self, url: str, timeout: float, key: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._authorization = {"Authorization": f"Bearer {key}"} if key else {}
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=timeout)
        self._session: aiohttp.ClientSession | None = None
        self._open_responses: set[aiohttp.ClientResponse] = set()

    async def stream(
        self, adapter: str, messages: list[dict[str, Any]], parameters: dict[str, Any]
    ) -> AsyncGenerator[Delta]:
        """Yields the reply as it is generated; closing the iterator ends the generation. `parameters` are the
        request's other fields, in the names of OpenAI and vLLM. Raises InvalidRequest when the engine refuses
        the request itself."""
        top_logprobs = parameters.get("top_logprobs") or 0
        body = {
            **parameters,
            "top_logprobs": top_logprobs + 1 if top_logprobs else 0,  # vLLM's first is the sampled token
            "model": adapter,
            "messages": messages,
            "stream": True,
            "logprobs": True,
            "return_token_ids": True,
        }
        prompt: list[int] | None = None
        async with self._request("POST", "/v1/chat/completions", body) as response:
            if response.status != 200:
                raise self._request_error(response.status, await response.read())
            async for events in _server_sent_events(response):
                for event in events:
                    prompt = event.get("prompt_token_ids") or prompt
                for delta in self._deltas(events, top_logprobs):
                    delta.prompt_token_ids, prompt = prompt, None
                    yield delta

    async def load(self, adapter: str, directory: Path) -> None:
        """Loads the adapter. Loading one that is loaded succeeds, as names are never reused."""
        body = {"lora_name": adapter, "lora_path": str(directory)}
        status, answer = await self._fetch("POST", "/v1/load_lora_adapter", body)
        if status != 200 and adapter not in await self.adapters():
            raise self._engine_error(status, answer)

    async def unload(self, adapter: str) -> None:
        """Unloads the adapter; running replies finish on it. Unloading one that is not loaded succeeds."""
        status, answer = await self._fetch("POST", "/v1/unload_lora_adapter", {"lora_name": adapter})
        if status not in (200, 404):
            raise self._engine_error(status, answer)

    async def probe(self, adapter: str, token_ids: list[int], positions: Iterable[int]) -> list[float]:
        """Returns the log-probability (nats) of the token at each position (from 1), given those before it.

        Each is one request that generates the token as the only allowed one. A single request with
        `prompt_logprobs` ends vLLM 0.32 when it shares a batch with adapters' replies ("einsum(): subscript b
        has size 9 …").
        """
        return await asyncio.gather(
            *(self._logprob(adapter, token_ids[:at], token_ids[at]) for at in positions)
        )

    async def _logprob(self, adapter: str, prompt: list[int], token: int) -> float:
        body = {
            "model": adapter, "prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": 0,
            "allowed_token_ids": [token],
        }  # fmt: skip
        status, answer = await self._fetch("POST", "/v1/completions", body)
        if status != 200:
            raise self._engine_error(status, answer)
        try:
            return float(orjson.loads(answer)["choices"][0]["logprobs"]["token_logprobs"][0])
        except _MALFORMED as error:
            raise self._malformed(error) from error

    async def adapters(self) -> set[str]:
        """Returns the names of the loaded adapters, without the base model."""
        return set(await self.folders())

    async def folders(self) -> dict[str, str]:
        """Returns the folder of each loaded adapter, by its name; empty where the engine does not say."""
        status, answer = await self._fetch("GET", "/v1/models")
        if status != 200:
            raise self._engine_error(status, answer)
        try:
            cards = orjson.loads(answer)["data"]
            return {card["id"]: card.get("root") or "" for card in cards if card.get("parent")}
        except _MALFORMED as error:
            raise self._malformed(error) from error

    async def forward(self, path: str, body: dict[str, Any]) -> AsyncGenerator[bytes]:
        """Yields the engine's answer to a request as it comes, whatever it is. Raises InvalidRequest when the
        engine refuses the request itself."""
        async with self._request("POST", path, body) as response:
            if response.status != 200:
                raise self._request_error(response.status, await response.read())
            async for piece in response.content.iter_any():
                yield piece

    async def describe(self) -> EngineDescription:
        """Returns what the engine's OpenAPI schema says of it."""
        _, answer = await self._fetch("GET", "/openapi.json")
        try:
            schema = orjson.loads(answer)
            chat = schema["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]
            reference = chat["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]
            fields = frozenset(schema["components"]["schemas"][reference]["properties"])
            name = ENGINE_TITLE if schema["info"]["title"] == ENGINE_TITLE else "vLLM"
            return EngineDescription(name, fields, frozenset(schema["paths"]))
        except _MALFORMED:  # some balancer's, or none
            return EngineDescription()

    async def check_health(self) -> None:
        """Returns when the engine reports that it is healthy; vLLM's also checks its core process."""
        status, answer = await self._fetch("GET", "/health")
        if status != 200:
            raise self._engine_error(status, answer)

    async def close(self) -> None:
        """Closes all connections: running requests raise EngineError. The next request opens a new one."""
        session, self._session = self._session, None
        if session is not None:
            for response in self._open_responses:  # closing a session does not wake those who read from it
                response.content.set_exception(aiohttp.ClientConnectionError("the client was closed"))
            await session.close()

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:  # it belongs to the running event loop
            self._session = aiohttp.ClientSession(
                timeout=self._timeout,
                headers=self._authorization,
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        data = orjson.dumps(body) if body is not None else None
        headers = {"Content-Type": "application/json"} if data else None
        try:
            async with self._session.request(method, self.url + path, data=data, headers=headers) as response:
                self._open_responses.add(response)
                try:
                    yield response
                finally:
                    self._open_responses.discard(response)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._connection_error(error) from error

    async def _fetch(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, bytes]:
        async with self._request(method, path, body) as response:
            return response.status, await response.read()

    def _deltas(self, events: list[dict[str, Any]], top_logprobs: int) -> Iterator[Delta]:
        """Yields one delta for each choice in the events. vLLM announces each choice by an event without
        tokens, which is skipped. Raises EngineError where tokens and log-probabilities do not match."""
        found: dict[int, Delta] = {}
        for event in events:
            if "error" in event:  # vLLM reads a grammar only after the response has begun
                error = event["error"]
                if error.get("code") == 400:
                    raise InvalidRequest(str(error.get("message")))
                raise EngineError(f"{self.url}: {error.get('message')}", url=self.url)
            for choice in event["choices"]:
                index = choice["index"]
                delta = found.get(index)
                if delta is None:
                    delta = found[index] = Delta(index, "", [], [], None, None)
                said = choice["delta"]
                delta.text += said.get("content") or ""
                delta.reasoning += said.get("reasoning") or said.get("reasoning_content") or ""
                delta.tool_calls += said.get("tool_calls") or ()
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
                    item["top_logprobs"] = _most_likely(item["top_logprobs"], top_logprobs)
                yield delta

    def _request_error(self, status: int, answer: bytes) -> EngineError | InvalidRequest:
        """Returns InvalidRequest for a 400. vLLM's codes are numbers, so a prompt that does not fit, and what
        it was not started for, are recognised by the message."""
        if status != 400:
            return self._engine_error(status, answer)
        error = _error(answer)
        message, code = str(error.get("message", answer.decode(errors="replace"))), error.get("code")
        if "maximum context length" in message or "max_model_len" in message:
            code = "context_length_exceeded"
        elif any(sign in message for sign in _UNABLE):
            code = "unsupported_parameter"
        return InvalidRequest(message, code=code if isinstance(code, str) else None, param=error.get("param"))

    def _engine_error(self, status: int, answer: bytes) -> EngineError:
        message = _error(answer).get("message", answer.decode(errors="replace"))
        return EngineError(f"{self.url}: {message}", url=self.url, status=status)

    def _malformed(self, error: Exception) -> EngineError:
        """Returns the error for an answer that no engine gives, as of another service at its address."""
        message = f"{self.url} answers otherwise than an engine ({type(error).__name__}); check vllm.urls"
        return EngineError(message, url=self.url)

    def _connection_error(self, error: Exception) -> EngineError:
        return EngineError(
            f"{self.url} does not answer: {error or type(error).__name__}",
            url=self.url,
            gone=isinstance(error, aiohttp.ClientConnectorError)
            and isinstance(error.os_error, ConnectionRefusedError),
            late=isinstance(error, TimeoutError),
        )


async def _server_sent_events(response: aiohttp.ClientResponse) -> AsyncIterator[list[dict[str, Any]]]:
    """Yields the JSON of the server-sent events of each socket read. Lines end at a newline only, as a reply
    may contain U+2028. Raises aiohttp.ClientPayloadError when the stream ends early."""
    rest = b""
    async for piece in response.content.iter_any():
        *lines, rest = (rest + piece).split(b"\n")
        events: list[dict[str, Any]] = []
        for line in lines:
            if line.startswith(b"data: [DONE]"):
                if events:
                    yield events
                await _drain(response)
                return
            if line.startswith(b"data: "):
                events.append(orjson.loads(line[6:]))
        if events:
            yield events
    raise aiohttp.ClientPayloadError("the stream ended early")


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Reads a finished response to its end, which returns its connection to the pool. Otherwise the next
    request opens a new one, and waits until the engine accepts it between two steps."""
    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(_DRAIN_TIMEOUT):
            await response.content.read()


def _most_likely(items: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    return sorted(items, key=lambda item: item["logprob"], reverse=True)[:count] if items else items


def _error(answer: bytes) -> dict[str, Any]:
    """Returns the error object, wherever this engine's version has it; empty for a body that is not JSON."""
    try:
        body = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return {}
    found = body.get("error", body) if isinstance(body, dict) else {}
    return found if isinstance(found, dict) else {"message": str(found)}
