"""The messages of a chat follow OpenAI's, with what vLLM adds; they are kept as they came, in one shape.

Text parts are joined by line breaks, `developer` means `system`, and the old forms of tool calls
(`function_call`, role `function`) become the new ones. A system message without text says nothing, and is
left out.
"""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from schemas.errors import InvalidRequest
from schemas.wire import path

FunctionName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
_MEDIA = {"file", "image_url", "input_audio", "audio_url", "video_url"}
_IGNORED = {"annotations", "audio"}  # what a reply had, and no prompt repeats


class CalledFunction(BaseModel):
    """A function with its arguments: JSON, as the model wrote it, so it may be invalid."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    name: FunctionName
    arguments: str = "{}"


class ToolCall(BaseModel):
    """A model's request that a tool be called. Clients send back what else they got with it."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    id: str = Field(max_length=256)
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(BaseModel):
    """One message of the history. `content` is text, or parts of which at least one is not text, or null
    where an assistant only called tools. `reasoning_content` is its thought."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = Field(None, max_length=256)
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = Field(None, min_length=1, max_length=128)
    tool_call_id: str | None = Field(None, max_length=256)

    @model_validator(mode="after")
    def _fits_its_role(self) -> Self:
        if self.role != "assistant" and (self.tool_calls or self.reasoning_content is not None):
            raise ValueError("only an assistant calls tools, or has reasoning_content")
        if (self.role == "tool") != (self.tool_call_id is not None):
            raise ValueError("tool_call_id belongs to a tool message, which needs it")
        return self

    @property
    def media(self) -> list[dict[str, Any]]:
        """Returns the parts that are not text."""
        return _not_text(self.content) if isinstance(self.content, list) else []


def normalize(messages: list[Any]) -> list[Any]:
    """Returns the messages of a request in the shape of `Message`, not yet validated. Raises InvalidRequest
    for content that is missing or wrong."""
    found = [_message(index, item) for index, item in enumerate(messages)]
    return [item for item in found if item != {"role": "system", "content": ""}] or found


def parse_arguments(message: dict[str, Any]) -> dict[str, Any]:
    """Returns a message with the arguments of its tool calls parsed, as chat templates expect them and vLLM
    gives them. Those that a model wrote wrongly stay a text."""
    if not message.get("tool_calls"):
        return message
    return {**message, "tool_calls": [_with_arguments(call) for call in message["tool_calls"]]}


def _with_arguments(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    try:
        return {**call, "function": {**function, "arguments": json.loads(function["arguments"])}}
    except (ValueError, RecursionError):
        return call


def _message(index: int, value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    fields = {name: given for name, given in value.items() if given is not None and name not in _IGNORED}
    if isinstance(fields.get("content"), list):
        fields["content"] = _content(fields["content"], path("messages", index, "content"))
    if "reasoning" in fields:
        fields.setdefault("reasoning_content", fields.pop("reasoning"))
    if fields.get("tool_calls") == []:
        del fields["tool_calls"]
    match fields.get("role"):
        case "developer":
            fields["role"] = "system"
        case "function":
            fields |= {"role": "tool", "tool_call_id": str(fields.get("name"))}
        case "assistant":
            _assistant(fields)
    if "content" not in fields and fields.get("role") != "assistant":
        param = path("messages", index, "content")
        raise InvalidRequest(f"{param} is missing.", code="missing_required_parameter", param=param)
    return fields


def _assistant(fields: dict[str, Any]) -> None:
    refusal = fields.pop("refusal", None)
    if refusal:
        fields.setdefault("content", refusal)
    call = fields.pop("function_call", None)
    if call is not None:
        name = call.get("name") if isinstance(call, dict) else None
        fields.setdefault("tool_calls", [{"id": str(name), "type": "function", "function": call}])


def _content(parts: list[Any], param: str) -> Any:
    """Returns the text of parts that are all text, else the parts."""
    for number, part in enumerate(parts):
        _check_part(part, f"{param}[{number}]")
    if _not_text(parts):
        return parts
    return "\n".join(part["refusal"] if part["type"] == "refusal" else part["text"] for part in parts)


def _check_part(part: Any, param: str) -> None:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise InvalidRequest(f"{param}: a content part is an object with a type.", param=param)
    kind = part["type"]
    if kind in ("text", "refusal"):
        if not isinstance(part.get(kind), str):
            raise InvalidRequest(f"{param}: a {kind} part needs its text.", param=f"{param}.{kind}")
    elif kind not in _MEDIA:
        raise InvalidRequest(
            f"{param}: a content part of type {kind[:32]} is not supported here; leave it out.",
            code="unsupported_parameter",
            param=param,
        )
    elif not isinstance(part.get(kind), dict):
        raise InvalidRequest(
            f"{param}: a part of type {kind} needs an object {kind}.", param=f"{param}.{kind}"
        )


def _not_text(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [part for part in parts if part["type"] in _MEDIA]
