"""Stored responses are retrieved and deleted as at OpenAI, by `/v1/responses/{id}` and below, with a secret
key. They are stored completions in other words."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from feedback import stored_turns
from schemas.errors import InvalidRequest, NotFound
from schemas.turns import StoredTurn, bare_id
from serving.auth import Reader, acting, require
from serving.completion import extension
from serving.input_items import input_items
from serving.keys import Caller
from serving.pages import After, Limit, Order, page_after
from serving.response_items import message_items
from serving.response_object import begun, completion_id, ended
from serving.services import Services, services

router = APIRouter()


async def find(services: Services, caller: Caller, id: str, param: str = "id") -> StoredTurn:
    """Returns the turn of a response. Raises NotFound."""
    turn = await stored_turns.find(services.pool, caller.project, completion_id(id))
    if turn is None or not turn.replies:
        raise _missing(id, param)
    return turn


@router.get("/v1/responses/{id}")
async def response(
    request: Request, id: str, caller: Reader, stream: Annotated[bool, Query()] = False
) -> dict[str, Any]:
    if stream:
        raise InvalidRequest(
            "A stored response is not streamed again; leave stream out.",
            code="unsupported_parameter",
            param="stream",
        )
    turn = await find(services(request), caller, id)
    reply = turn.replies[0]
    found = begun(turn.id, turn.created, turn.request, turn.sampling, turn.metadata)
    output = message_items(bare_id(turn.id), reply.whole_message)
    tokens = sum(each.tokens for each in turn.replies)
    policies = [each.policy for each in turn.replies]
    token = services(request).signer.feedback_token(turn.id)
    return ended(found, output, reply.finish_reason, turn.prompt_tokens, tokens) | {
        "hearken": extension(turn.id, turn.conversation_id, policies, token)
    }


@router.get("/v1/responses/{id}/input_items")
async def items(
    request: Request, id: str, caller: Reader, after: After = None, limit: Limit = 20, order: Order = "desc"
) -> dict[str, Any]:
    """Lists what a response answered, but for its instructions."""
    turn = await find(services(request), caller, id)
    return page_after(input_items(turn), after, limit, order)


@router.delete("/v1/responses/{id}")
async def delete(request: Request, id: str, caller: Reader) -> dict[str, Any]:
    """Deletes the response with the votes on it. What was learned from them stays in the weights."""
    async with acting(request, require(caller, "chat")) as connection:
        if not await stored_turns.delete(connection, caller.project, completion_id(id)):
            raise _missing(id)
    return {"id": id, "object": "response", "deleted": True}


def _missing(id: str, param: str = "id") -> NotFound:
    return NotFound(f"There is no stored response {id[:64]}.", code="response_not_found", param=param)
