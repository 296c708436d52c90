"""Stored completions are read, tagged and deleted as at OpenAI, by `/v1/chat/completions` and below. They
show what people wrote, so that takes the role read, and a change chat too."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, TypeAdapter

from feedback import stored_turns
from schemas.chat import DEFAULT_MODEL, Metadata
from schemas.errors import NotFound
from schemas.turns import StoredTurn
from schemas.wire import check, decode
from serving.auth import Reader, acting, require
from serving.keys import Caller
from serving.openapi import request_body
from serving.pages import After, Limit, Order, page, page_after
from serving.services import services

router = APIRouter()


class _NewTags(BaseModel):
    """The metadata that replaces what a stored completion has."""

    model_config = ConfigDict(strict=True, extra="ignore")

    metadata: Metadata


_METADATA = TypeAdapter(Metadata)
_NEW_TAGS = TypeAdapter(_NewTags)
_PREFIX = "metadata["


@router.get("/v1/chat/completions")
async def completions(
    request: Request,
    caller: Reader,
    after: After = None,
    limit: Limit = 20,
    order: Order = "asc",
    model: str | None = None,
) -> dict[str, Any]:
    """Lists completions by time. `metadata[key]=value` selects those that have it."""
    if model not in (None, DEFAULT_MODEL):
        return page([], limit)
    asked = {
        name[len(_PREFIX) : -1]: value
        for name, value in request.query_params.items()
        if name.startswith(_PREFIX) and name.endswith("]")
    }
    found = await stored_turns.page(
        services(request).pool,
        caller.project,
        after=after,
        limit=limit + 1,
        order=order,
        metadata=check(_METADATA, asked),
    )
    return page([_completion(turn) for turn in found], limit)


@router.get("/v1/chat/completions/{id}")
async def completion(request: Request, id: str, caller: Reader) -> dict[str, Any]:
    return _completion(await _turn(request, caller, id))


@router.get("/v1/chat/completions/{id}/messages")
async def messages(
    request: Request,
    id: str,
    caller: Reader,
    after: After = None,
    limit: Limit = 20,
    order: Order = "asc",
) -> dict[str, Any]:
    turn = await _turn(request, caller, id)
    found = [{"id": f"{id}-{number}", **message} for number, message in enumerate(turn.messages)]
    return page_after(found, after, limit, order)


@router.post("/v1/chat/completions/{id}", openapi_extra=request_body("/v1/chat/completions/{id}", _NewTags))
async def tag(request: Request, id: str, caller: Reader) -> dict[str, Any]:
    """Replaces the metadata, but for the conversation that the completion belongs to."""
    require(caller, "chat")
    new = check(_NEW_TAGS, decode(await request.body()))
    metadata = await services(request).redaction.metadata(caller.project, new.metadata)
    if not await stored_turns.set_metadata(services(request).pool, caller.project, id, metadata):
        raise _missing(id)
    return _completion(await _turn(request, caller, id))


@router.delete("/v1/chat/completions/{id}")
async def delete(request: Request, id: str, caller: Reader) -> dict[str, Any]:
    """Deletes the completion with the votes on it. What was learned from them stays in the weights."""
    async with acting(request, require(caller, "chat")) as connection:
        if not await stored_turns.delete(connection, caller.project, id):
            raise _missing(id)
    return {"object": "chat.completion.deleted", "id": id, "deleted": True}


async def _turn(request: Request, caller: Caller, id: str) -> StoredTurn:
    found = await stored_turns.find(services(request).pool, caller.project, id)
    if found is None:
        raise _missing(id)
    return found


def _missing(id: str) -> NotFound:
    return NotFound(f"There is no stored completion {id[:64]}.", code="completion_not_found", param="id")


def _completion(turn: StoredTurn) -> dict[str, Any]:
    completion_tokens = sum(reply.tokens for reply in turn.replies)
    return {
        "id": turn.id,
        "object": "chat.completion",
        "created": turn.created,
        "model": DEFAULT_MODEL,
        "system_fingerprint": turn.replies[0].policy if turn.replies else None,
        "choices": [
            {
                "index": reply.choice,
                "message": {"refusal": None, **reply.whole_message},
                "logprobs": None,
                "finish_reason": reply.finish_reason,
            }
            for reply in turn.replies
        ],
        "usage": {
            "prompt_tokens": turn.prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": turn.prompt_tokens + completion_tokens,
        },
        "metadata": turn.metadata,
        **{name: turn.sampling.get(name) for name in ("temperature", "top_p", "seed")},
        **{name: turn.sampling.get(name) for name in ("presence_penalty", "frequency_penalty")},
        **{name: turn.request.get(name) for name in ("tools", "tool_choice", "response_format")},
    }
