"""A raw completion is read from its engine as a stream and put together here, so that an engine may take long
for all of it, as long as tokens come."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import orjson

from schemas.errors import EngineError, InvalidRequest
from serving.streams import whole_events

_END = b"data: [DONE]"
_HEAD = ("id", "object", "created", "model", "system_fingerprint", "usage")


def as_stream(body: dict[str, Any]) -> dict[str, Any]:
    """Returns the request for a whole completion as one for a stream that says its usage."""
    return {**body, "stream": True, "stream_options": {"include_usage": True}}


async def whole_completion(pieces: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """Yields the completion that the server-sent events in `pieces` amount to, as one JSON body. Raises
    EngineError for an event that is an error, and for a stream without an end."""
    found: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    ended = False
    async with aclosing(whole_events(pieces)) as batches:
        async for batch in batches:
            for line in batch.split(b"\n"):
                ended = ended or line.startswith(_END)
                if ended or not line.startswith(b"data: "):
                    continue
                event = orjson.loads(line.removeprefix(b"data: "))
                if "error" in event:
                    raise _failure(event["error"])
                found |= {name: event[name] for name in _HEAD if event.get(name) is not None}
                for part in event["choices"]:
                    _extend(choices.setdefault(part["index"], {}), part)
    if not ended:
        raise EngineError("The engine ended a completion early.", url="")
    yield orjson.dumps({**found, "choices": [choices[index] for index in sorted(choices)]})


def _extend(choice: dict[str, Any], part: dict[str, Any]) -> None:
    """Adds what one event says of a choice: texts and lists grow, and of the rest the last value holds."""
    for name, value in part.items():
        known = choice.get(name)
        if known is None:
            choice[name] = value
        elif name == "logprobs":
            choice[name] = {each: [*known[each], *value[each]] for each in known} if value else known
        elif name in ("text", "token_ids"):
            choice[name] = known + (value or type(known)())
        elif value is not None:
            choice[name] = value


def _failure(error: dict[str, Any]) -> EngineError | InvalidRequest:
    message = str(error.get("message"))
    return InvalidRequest(message) if error.get("code") == 400 else EngineError(message, url="")
