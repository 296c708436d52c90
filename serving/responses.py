"""`POST /v1/responses` follows OpenAI's Responses API over the same completions and records as the chat API.

Votes name the completion (`hearken.turn_id`).
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import structlog
from fastapi import APIRouter, Request
from starlette.responses import Response

from schemas.errors import RequestError
from schemas.responses import ResponseRequest, parse_response
from schemas.turns import bare_id
from schemas.wire import decode, json_line
from serving.auth import SESSION_HEADER, caller, charge_replies, network_of, require, visitor
from serving.completion import Completion
from serving.consent import obey_consent
from serving.keys import Caller
from serving.openapi import EVENT_STREAM, request_body
from serving.response_items import Event, ResponseItems
from serving.response_object import begun, ended, recorded_fields
from serving.services import Services, services
from serving.stored_responses import find
from serving.streams import CompletionResponse

router = APIRouter()


@router.post(
    "/v1/responses", openapi_extra=request_body("/v1/responses", ResponseRequest), responses=EVENT_STREAM
)
async def responses(request: Request) -> Response:
    found = require(await caller(request), "chat")
    asked = parse_response(decode(await request.body()))
    chat = asked.chat_request(await _history(services(request), found, asked.previous_response_id))
    person = await visitor(request, found, request.headers.get(SESSION_HEADER))
    chat = await obey_consent(services(request), found, chat, person, network_of(request))
    completion = Completion(
        services(request), found, chat, person, recorded_fields(asked), network=network_of(request)
    )
    completion.token_buckets = charge_replies(request, found, chat.n, completion.person)
    structlog.contextvars.bind_contextvars(policy=completion.assignment.policy, completion=completion.id)
    answer = _Answer(completion, asked)
    events = answer.events() if asked.stream else None
    return CompletionResponse(completion, events, services(request).metrics, answer.whole, _failure)


class _Answer:
    """The response to one request."""

    def __init__(self, completion: Completion, asked: ResponseRequest) -> None:
        self._completion = completion
        self._asked = asked
        self._items = ResponseItems(bare_id(completion.id), show_logprobs=asked.shows_logprobs)

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
            response = self._begun()
            yield encoded(
                {"type": "response.created", "response": response},
                {"type": "response.in_progress", "response": response},
                *self._items.add(first),
            )
            async for delta in deltas:
                if events := list(self._items.add(delta)):
                    yield encoded(*events)
        await self._completion.record()
        last = list(self._items.finish())
        response = self._ended()
        yield encoded(*last, {"type": f"response.{response['status']}", "response": response})

    def _ended(self) -> dict[str, Any]:
        usage = self._completion.usage()
        reason = self._completion.shown().finish_reason
        found = ended(
            self._begun(), self._items.items, reason, usage["prompt_tokens"], usage["completion_tokens"]
        )
        return found | {"hearken": self._completion.extension()}

    def _begun(self) -> dict[str, Any]:
        completion = self._completion
        request, sampling = completion.recorded_request(), completion.sampling()
        found = begun(completion.id, completion.created, request, sampling, completion.metadata)
        return found | {"store": completion.stored, "user": self._asked.user}


async def _history(services: Services, caller: Caller, previous: str | None) -> list[dict[str, Any]]:
    """Returns the messages of a previous response, its reply included. Raises Forbidden, NotFound."""
    if previous is None:
        return []
    require(caller, "read")
    turn = await find(services, caller, previous, "previous_response_id")
    return [*turn.conversation, turn.replies[0].whole_message]


def _failure(error: RequestError) -> bytes:
    body = {"type": "error", "code": error.code, "message": error.message, "param": error.param}
    return b"event: error\ndata: " + json_line({**body, "sequence_number": 0}) + b"\n\n"
