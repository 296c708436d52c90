"""`POST /v1/responses` follows OpenAI's Responses API over the same completions and records as the chat API.

A response's id is its completion's with another prefix. Votes name the completion (`hearken.turn_id`).
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import structlog
from fastapi import APIRouter, Request
from starlette.responses import Response

from feedback import stored_turns
from schemas.errors import Forbidden, NotFound, RequestError
from schemas.responses import ResponseRequest, parse_response
from schemas.wire import decode, json_line
from serving.auth import SESSION_HEADER, caller, charge_replies, visitor
from serving.completion import Completion
from serving.keys import Caller
from serving.openapi import request_body
from serving.response_items import Event, ResponseItems
from serving.services import Services, services
from serving.streams import CompletionResponse

router = APIRouter()

_COMPLETION, _RESPONSE = "chatcmpl-", "resp_"


@router.post("/v1/responses", openapi_extra=request_body("/v1/responses", ResponseRequest))
async def responses(request: Request) -> Response:
    found = await caller(request)
    asked = parse_response(decode(await request.body()))
    chat = asked.chat_request(await _history(services(request), found, asked.previous_response_id))
    record = {"instructions": asked.instructions} if asked.instructions else {}
    person = await visitor(request, found, request.headers.get(SESSION_HEADER))
    completion = Completion(services(request), found, chat, person, record)
    charge_replies(request, found, chat.n, completion.person)
    structlog.contextvars.bind_contextvars(policy=completion.assignment.policy, completion=completion.id)
    answer = _Answer(completion, asked)
    events = answer.events() if asked.stream else None
    return CompletionResponse(completion, events, services(request).metrics, answer.whole, _failure)


class _Answer:
    """The response to one request."""

    def __init__(self, completion: Completion, asked: ResponseRequest) -> None:
        self._completion = completion
        self._asked = asked
        id = completion.id.removeprefix(_COMPLETION)
        self._items = ResponseItems(id, show_logprobs=asked.shows_logprobs)

    def whole(self) -> dict[str, Any]:
        """Returns the response that is not streamed; call it after `record`."""
        list(self._items.add(self._completion.shown()))
        list(self._items.finish())
        return self._ended()

    async def events(self) -> AsyncGenerator[bytes]:
        """Yields the server-sent events. The last comes when the turn is durable."""
        number = 0

        def encoded(*events: Event) -> bytes:
            nonlocal number
            found = b""
            for event in events:
                body = json_line({**event, "sequence_number": number})
                found += b"event: " + event["type"].encode() + b"\ndata: " + body + b"\n\n"
                number += 1
            return found

        async with aclosing(self._completion.deltas()) as deltas:
            first = await anext(deltas)
            begun = self._response("in_progress")
            yield encoded(
                {"type": "response.created", "response": begun},
                {"type": "response.in_progress", "response": begun},
                *self._items.add(first),
            )
            async for delta in deltas:
                if events := list(self._items.add(delta)):
                    yield encoded(*events)
        await self._completion.record()
        last = list(self._items.finish())
        ended = self._ended()
        yield encoded(*last, {"type": f"response.{ended['status']}", "response": ended})

    def _ended(self) -> dict[str, Any]:
        cut = self._completion.shown().finish_reason == "length"
        usage = self._completion.usage()
        return self._response("incomplete" if cut else "completed") | {
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": self._items.items,
            "usage": {
                "input_tokens": usage["prompt_tokens"],
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": usage["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage["total_tokens"],
            },
            "hearken": self._completion.extension(),
        }

    def _response(self, status: str) -> dict[str, Any]:
        asked = self._asked
        sampling = self._completion.sampling()
        return {
            "id": _RESPONSE + self._completion.id.removeprefix(_COMPLETION),
            "object": "response",
            "created_at": self._completion.created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": asked.metadata,
            "model": asked.model,
            "output": [],
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": asked.previous_response_id,
            "reasoning": {"effort": asked.reasoning.effort, "summary": None},
            "store": asked.store,
            "temperature": sampling["temperature"],
            "text": {"format": asked.text.format or {"type": "text"}},
            "tool_choice": asked.tool_choice or "auto",
            "tools": asked.tools or [],
            "top_p": sampling["top_p"],
            "truncation": "disabled",
            "usage": None,
            "user": asked.user,
        }


async def _history(services: Services, caller: Caller, previous: str | None) -> list[dict[str, Any]]:
    """Returns the messages of a previous response, its reply included. Raises Forbidden, NotFound."""
    if previous is None:
        return []
    if caller.kind == "publishable":
        raise Forbidden("A publishable key may not read stored responses; send the whole history as input.")
    id = _COMPLETION + previous.removeprefix(_RESPONSE)
    turn = await stored_turns.find(services.pool, caller.project, id)
    if turn is None:
        raise NotFound(
            f"There is no stored response {previous[:64]}.",
            code="response_not_found",
            param="previous_response_id",
        )
    messages = turn.messages
    if messages[:1] == [{"role": "system", "content": turn.request.get("instructions")}]:
        messages = messages[1:]  # instructions hold for one response
    return [*messages, turn.replies[0].whole_message]


def _failure(error: RequestError) -> bytes:
    body = {"type": "error", "code": error.code, "message": error.message, "param": error.param}
    return b"event: error\ndata: " + json_line({**body, "sequence_number": 0}) + b"\n\n"
