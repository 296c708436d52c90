"""The engine's HTTP API must be reachable on loopback or a private network only: its clients load adapters.
With a key, as vLLM's, it answers only those who have it, but for its health. Prompts and grammars are made in
their own thread, so the event loop never computes."""

import asyncio
import contextlib
import functools
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

from schemas.errors import HearkenError, InvalidRequest, RequestError, Unauthorized
from serving.embedded.detokenizer import Vocabulary
from serving.embedded.grammar import Grammars
from serving.embedded.lora import AdapterError
from serving.embedded.model import Model
from serving.embedded.prompt import encode
from serving.embedded.protocol import ChatRequest, CompletionRequest, LoadRequest, UnloadRequest
from serving.embedded.responses import ChatResponse, usage
from serving.embedded.scheduler import Scheduler
from serving.embedded.sequence import Sequence, Token
from serving.embedded.taste_scores import TasteRequest
from serving.engine import ENGINE_TITLE, TASTES_PATH

T = TypeVar("T")
_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class ClientDisconnected(HearkenError):
    """The client closed its connection before the answer. The request is cancelled."""


def create_app(model: Model, scheduler: Scheduler, name: str, key: str | None = None) -> FastAPI:
    """Returns the API over one base model, which is called `name` in `/v1/models`; it asks for `key` if that
    is given."""
    tokenizer_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenizer")

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        scheduler.start(asyncio.get_running_loop())
        yield
        scheduler.stop()
        tokenizer_thread.shutdown()

    app = FastAPI(title=ENGINE_TITLE, lifespan=lifespan, docs_url=None, redoc_url=None)
    _add_adapter_routes(app, scheduler, name)
    _add_generation_routes(app, model, scheduler, tokenizer_thread)
    _add_error_handlers(app)
    if key is not None:
        _add_key(app, key)
    return app


def _add_key(app: FastAPI, key: str) -> None:
    expected = f"Bearer {key}".encode()

    @app.middleware("http")
    async def check(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
        given = request.headers.get("authorization", "").encode()
        if request.url.path != "/health" and not secrets.compare_digest(given, expected):
            error = Unauthorized("The engine asks for its key.")
            return JSONResponse(error.envelope(), error.status, error.headers())
        return await proceed(request)


def _add_adapter_routes(app: FastAPI, scheduler: Scheduler, name: str) -> None:
    @app.get("/health")
    async def health() -> Response:
        return Response(status_code=200 if scheduler.running else 503)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """Lists the adapters. The base is served as one of them (a LoRA of zeros), and is not listed
        itself."""
        cards = [
            {"id": policy, "object": "model", "root": str(adapter.directory), "parent": name}
            for policy, adapter in scheduler.adapters.items()
        ]
        return {"object": "list", "data": cards}

    @app.post("/v1/load_lora_adapter")
    async def load(body: LoadRequest) -> Response:
        try:
            await scheduler.load(body.lora_name, Path(body.lora_path))
        except AdapterError as error:
            raise InvalidRequest(f"The adapter was not loaded: {error}", code="adapter_not_loaded") from error
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    @app.post("/v1/unload_lora_adapter")
    async def unload(body: UnloadRequest) -> Response:
        await scheduler.unload(body.lora_name)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


def _add_generation_routes(
    app: FastAPI, model: Model, scheduler: Scheduler, tokenizer_thread: ThreadPoolExecutor
) -> None:
    vocabulary = Vocabulary(model.tokenizer)
    grammars = functools.cache(Grammars)  # made when one is first asked for, as that takes a second

    def prepare(body: ChatRequest) -> tuple[list[int], list[Sequence]]:
        prompt = encode(model.tokenizer, body.messages, body.tools, body.chat_template_kwargs)
        grammar = body.grammar(lambda: grammars(model))
        return prompt, body.sequences(model, prompt, grammar)

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        body.check_supported()
        body.max_tokens = body.max_completion_tokens or body.max_tokens
        loop = asyncio.get_running_loop()
        prompt, sequences = await loop.run_in_executor(tokenizer_thread, prepare, body)
        generation = scheduler.generate(body.model, sequences)
        reply = ChatResponse(body, prompt, vocabulary)
        if not body.stream:
            return JSONResponse(reply.response(await _cancel_on_disconnect(request, _all(generation))))
        first = await _cancel_on_disconnect(request, anext(generation))
        return StreamingResponse(_chunks(reply, first, generation), media_type="text/event-stream")

    @app.post("/v1/completions", include_in_schema=False)  # for probes; it completes no text
    async def complete(body: CompletionRequest) -> Response:
        """Returns the one allowed token with its log-probability."""
        tokens = [*body.prompt, *body.allowed_token_ids]
        if not all(0 <= token < len(model.tokenizer) for token in tokens):
            raise InvalidRequest("The prompt has token ids outside the vocabulary.", param="prompt")
        if len(tokens) > model.context:
            raise InvalidRequest(
                f"This model's maximum context length is {model.context} tokens.",
                code="context_length_exceeded",
                param="prompt",
            )
        logprobs_TV = await scheduler.logprobs(body.model, tokens)
        piece = vocabulary.piece(tokens[-1])[0]
        forced = {"tokens": [piece], "token_logprobs": [float(logprobs_TV[-1, tokens[-1]])]}
        return JSONResponse(
            {
                "object": "text_completion",
                "model": body.model,
                "choices": [{"index": 0, "text": piece, "finish_reason": "length", "logprobs": forced}],
                "usage": usage(len(body.prompt), 1),
            }
        )

    @app.post(TASTES_PATH)
    async def tastes(body: TasteRequest) -> Response:
        """Returns the values of replies by a published taste model."""
        return JSONResponse(await scheduler.taste_scores(body))


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(RequestError)
    async def request_error(request: Request, error: RequestError) -> Response:
        return JSONResponse(error.envelope(), error.status, error.headers())

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"] if part != "body")
        return await request_error(request, InvalidRequest(f"{param}: {first['msg']}", param=param))

    @app.exception_handler(ClientDisconnected)
    async def disconnected(request: Request, error: ClientDisconnected) -> Response:
        return Response(status_code=499)


async def _all(generation: AsyncIterator[list[Token]]) -> list[Token]:
    return [token async for tokens in generation for token in tokens]


async def _chunks(
    reply: ChatResponse, first: list[Token], generation: AsyncIterator[list[Token]]
) -> AsyncIterator[bytes]:
    """Yields server-sent events; tokens that are ready together are sent together."""
    yield b"".join(_event(reply.chunk(token)) for token in first)
    async for tokens in generation:
        yield b"".join(_event(reply.chunk(token)) for token in tokens)
    if last := reply.usage_chunk():
        yield _event(last)
    yield b"data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + _to_json(body).encode() + b"\n\n"


async def _cancel_on_disconnect(request: Request, work: Awaitable[T]) -> T:
    """Returns the result of `work`, or cancels it when the client disconnects and raises
    ClientDisconnected."""

    async def disconnect() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(disconnect())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnected("the client closed its connection")
        return working.result()
    finally:
        working.cancel()
        waiting.cancel()
