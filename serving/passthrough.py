"""`POST /v1/completions` and `/v1/embeddings` pass through to engines that serve them (vLLM), unrecorded.

They are for servers: a prompt of a completion is the raw text that the model reads, special tokens included.
So a publishable key may not send them, and nothing is learned from them.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from schemas.chat import DEFAULT_MODEL
from schemas.errors import Forbidden, InvalidRequest
from schemas.wire import decode
from serving.assignment import pinned_adapter
from serving.auth import caller, charge_replies, require
from serving.keys import Caller
from serving.openapi import EVENT_STREAM, request_body
from serving.services import Services, services
from serving.streams import StreamResponse, WholeResponse, whole_events
from serving.whole_completion import as_stream, whole_completion

_BYTES_PER_TOKEN = 4  # of text, about
_MOST_PROMPTS = 128  # of one request, each with several completions
_MOST_INPUTS = 2_048  # as at OpenAI

COMPLETIONS, EMBEDDINGS = "/v1/completions", "/v1/embeddings"

router = APIRouter()


@router.post(COMPLETIONS, openapi_extra=request_body(COMPLETIONS, dict[str, Any]), responses=EVENT_STREAM)
async def completions(request: Request) -> Response:
    """Completes a raw prompt by the live policy, or by the one that an operator's key pins."""
    found, body = await _read(request)
    parts = services(request)
    adapter = _adapter(parts, found, body)
    most = parts.settings.serving.max_choices
    if any(isinstance(body.get(name), int) and body[name] > most for name in ("n", "best_of")):
        raise InvalidRequest(f"n and best_of may be at most {most}.", param="n")
    _check_supported(body)
    if body.get("max_tokens") is None:
        body["max_tokens"] = parts.settings.serving.max_tokens
    prompts = _listed(body, "prompt", _MOST_PROMPTS)
    replies = len(prompts) * max(_whole_number(body.get(name)) for name in ("n", "best_of"))
    _spend(request, found, sum(map(_tokens, prompts)) + _whole_number(body["max_tokens"]) * replies)
    body["model"] = adapter
    if body.get("stream"):
        return StreamResponse(whole_events(_held(parts, body)), parts.metrics)
    if body.get("use_beam_search"):  # vLLM does not stream it
        return WholeResponse(_held(parts, body))
    return WholeResponse(whole_completion(_held(parts, as_stream(body))))


@router.post(EMBEDDINGS, openapi_extra=request_body(EMBEDDINGS, dict[str, Any]))
async def embeddings(request: Request) -> Response:
    """Embeds texts by the engine's own model, where that is an embedding model."""
    found, body = await _read(request)
    body.pop("model", None)
    _listed(body, "input", _MOST_INPUTS)
    _spend(request, found, len(await request.body()) // _BYTES_PER_TOKEN)
    return WholeResponse(services(request).fleet.forward(EMBEDDINGS, body))


def _check_supported(body: dict[str, Any]) -> None:
    """Raises InvalidRequest for a request that can crash the engine for everybody (`EngineClient.probe`), and
    for tensors."""
    if body.get("prompt_embeds") is not None:
        raise InvalidRequest(
            "prompt_embeds is not supported here; send text or token ids as prompt.",
            code="unsupported_parameter",
            param="prompt_embeds",
        )
    echoed = body.get("echo") and body.get("logprobs") is not None
    if echoed or body.get("prompt_logprobs") is not None:
        raise InvalidRequest(
            "Log-probabilities of the prompt are not supported here, as they can crash vLLM: leave out"
            " prompt_logprobs, and echo beside logprobs.",
            code="unsupported_parameter",
            param="echo" if echoed else "prompt_logprobs",
        )


def _spend(request: Request, caller: Caller, tokens: int) -> None:
    """Charges the token quotas for what is asked for, as nobody counts what passes through. Raises
    RateLimited."""
    for bucket in charge_replies(request, caller, 1, None):
        services(request).limiter.spend(replace(bucket, count=tokens))


def _listed(body: dict[str, Any], name: str, most: int) -> list[Any]:
    """Returns the texts, or lists of token ids, of a request. Raises InvalidRequest for too many."""
    value = body.get(name)
    if not isinstance(value, list) or all(isinstance(each, int) for each in value):
        return [value]
    if len(value) > most:
        raise InvalidRequest(f"{name} may have at most {most} items; send several requests.", param=name)
    return value


def _tokens(text: Any) -> int:
    """Returns the length of a text, about, or of a list of token ids."""
    if isinstance(text, str):
        return len(text.encode()) // _BYTES_PER_TOKEN
    return len(text) if isinstance(text, list) else 0


def _whole_number(value: Any) -> int:
    """Returns a field that should be a number above zero; 1 where it is not, which the engine refuses."""
    return max(1, value) if isinstance(value, int) else 1


async def _read(request: Request) -> tuple[Caller, dict[str, Any]]:
    found = require(await caller(request), "chat")
    if found.kind == "publishable":
        raise Forbidden("A publishable key may only chat; use a secret key.")
    body = decode(await request.body())
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return found, body


def _adapter(parts: Services, caller: Caller, body: dict[str, Any]) -> str:
    model = body.get("model") or DEFAULT_MODEL
    if not isinstance(model, str):
        raise InvalidRequest("model must be a string.", param="model")
    route = parts.router.route(caller.project)
    if model == DEFAULT_MODEL:
        return route.adapter(route.live)
    return pinned_adapter(parts, caller, model, route)


async def _held(parts: Services, body: dict[str, Any]) -> AsyncGenerator[bytes]:
    with parts.fleet.hold(body["model"]), parts.metrics.requests_in_flight.track_inprogress():
        async with aclosing(parts.fleet.forward(COMPLETIONS, body)) as pieces:
            async for piece in pieces:
                yield piece
