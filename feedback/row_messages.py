"""Messages and tools of data sets are read into those of the chat API (`schemas.messages`).

Data sets write some things otherwise: `thinking` for a thought, objects for the arguments of tool calls, no
ids of calls, and tools as JSON or as bare functions.
"""

import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter

from feedback.layouts import Message
from schemas.chat import Tool
from schemas.errors import InvalidRequest, MalformedRow
from schemas.messages import Message as ValidMessage
from schemas.messages import normalize
from schemas.wire import check, strings

T = TypeVar("T")

_FIELDS = {*ValidMessage.model_fields, "reasoning", "refusal", "function_call"}
_MESSAGES = TypeAdapter(list[ValidMessage])
_TOOLS = TypeAdapter(Annotated[list[Tool], Field(max_length=128)])


def read_messages(value: Any, name: str, before: Sequence[Message] = ()) -> list[Message]:
    """Returns the messages of a conversation that goes on from those `before`; other fields of a message are
    let pass. Raises MalformedRow."""
    if not isinstance(value, list) or not value:
        raise MalformedRow(f"{name} must be a text or a list of messages")
    given: list[Message] = []
    unanswered: list[dict[str, Any]] = []  # the calls so far that have no result
    number = sum(len(message.get("tool_calls", ())) for message in before)
    for each in value:
        message = _message(each, name)
        for call in message.get("tool_calls", ()):
            call["id"] = call["id"] or f"call_{number}"
            number += 1
            unanswered.append(call)
        if message.get("role") == "tool":
            _link(message, unanswered, name)
        given.append(message)
    messages = _checked(_MESSAGES, lambda: normalize(given), name)
    found = [message.model_dump(exclude_none=True) for message in messages]
    if any(isinstance(message.get("content"), list) for message in found):
        raise MalformedRow(f"{name} has a message whose content is no text")
    return found


def read_tools(value: Any) -> list[dict[str, Any]] | None:
    """Returns the tools of a row, None where it has none. Raises MalformedRow."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise MalformedRow("tools is no JSON") from None
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise MalformedRow("tools must be a list of JSON schemas of functions")
    tools = [tool if "function" in tool else {"type": "function", "function": tool} for tool in value]
    _checked(_TOOLS, lambda: [_without_return(tool) for tool in tools], "tools")
    return tools or None


def writable(value: T, name: str) -> T:
    """Returns a value if Postgres can store all its texts."""
    for text in strings(value):
        if "\0" in text:
            raise MalformedRow(f"{name} holds a NUL character")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise MalformedRow(f"{name} holds half a surrogate pair") from None
    return value


def _message(value: Any, name: str) -> Message:
    """Returns a message with the API's fields, not yet checked."""
    if not isinstance(value, dict):
        raise MalformedRow(f"{name} must be a text or a list of messages")
    fields = {field: value[field] for field in _FIELDS if value.get(field) is not None}
    if value.get("thinking") is not None:
        fields.setdefault("reasoning_content", value["thinking"])
    if "tool_calls" in fields:
        calls = fields["tool_calls"]
        if not isinstance(calls, list):
            raise MalformedRow(f"{name} has tool calls that are no list")
        fields["tool_calls"] = [_call(call, name) for call in calls]
    return fields


def _call(value: Any, name: str) -> dict[str, Any]:
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict):
        raise MalformedRow(f"{name} has a tool call that is no object")
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        written = "{}" if arguments is None else json.dumps(arguments, ensure_ascii=False)
        function = {**function, "arguments": written}
    return {"id": value.get("id"), "type": "function", "function": function}


def _link(message: Message, unanswered: list[dict[str, Any]], name: str) -> None:
    """Names the call whose result a message is, where the message does not: the first of its tool, or the
    first."""
    id = message.get("tool_call_id")
    if id is not None:
        unanswered[:] = [call for call in unanswered if call["id"] != id]
        return
    if not unanswered:
        raise MalformedRow(f"{name} has a result of a tool that was not called")
    of_its_tool = [call for call in unanswered if call["function"].get("name") == message.get("name")]
    call = (of_its_tool or unanswered)[0]
    unanswered.remove(call)
    message["tool_call_id"] = call["id"]


def _without_return(tool: dict[str, Any]) -> dict[str, Any]:
    """Returns a tool without the schema of its result, which `transformers` writes and the API has not."""
    function = tool["function"]
    if not isinstance(function, dict):
        return tool
    return {**tool, "function": {name: function[name] for name in function if name != "return"}}


def _checked(adapter: TypeAdapter[T], value: Callable[[], Any], name: str) -> T:
    try:
        return check(adapter, writable(value(), name))
    except InvalidRequest as error:
        raise MalformedRow(f"{name}: {error.message}") from None
