"""A request to OpenAI's Responses API says the same as a chat request in other words, and becomes one."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from schemas.chat import DEFAULT_MODEL, ChatRequest, parse_chat
from schemas.errors import InvalidRequest
from schemas.wire import check

_IGNORED = {
    "max_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "stream_options",
}
_UNSUPPORTED: dict[str, list[Any]] = {
    "background": [False],
    "context_management": [],
    "conversation": [],
    "prompt": [],
    "truncation": ["disabled"],
}
"""Each with the values that ask for nothing."""
_LOGPROBS = "message.output_text.logprobs"
_STRICT = ConfigDict(strict=True, extra="forbid", frozen=True)
Item = dict[str, Any]


class TextOptions(BaseModel):
    model_config = _STRICT

    format: dict[str, Any] | None = None
    verbosity: Literal["medium"] | None = None


class ReasoningOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    effort: str | None = None


class ResponseRequest(BaseModel):
    """A valid request, but for what `chat_request` finds in it. `input` is a text, or items: messages,
    thoughts, tool calls and their results."""

    model_config = _STRICT

    input: str | list[Item] = Field(min_length=1)
    model: str = DEFAULT_MODEL
    instructions: str | None = None
    previous_response_id: str | None = Field(None, max_length=128)
    stream: bool = False
    store: bool = True
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: list[Item] | None = None
    tool_choice: str | Item | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions = TextOptions()
    reasoning: ReasoningOptions = ReasoningOptions()
    top_logprobs: int | None = None
    include: list[str] = []
    user: str | None = None
    metadata: dict[str, str] = {}

    @property
    def shows_logprobs(self) -> bool:
        return _LOGPROBS in self.include

    def chat_request(self, history: list[Item]) -> ChatRequest:
        """Returns the chat request after the messages of a previous response. Raises InvalidRequest."""
        instructions = [{"role": "system", "content": self.instructions}] if self.instructions else []
        items = [{"role": "user", "content": self.input}] if isinstance(self.input, str) else self.input
        fields = {
            "messages": [*instructions, *history, *_messages(items)],
            "model": self.model,
            "stream": self.stream,
            "store": self.store,
            "max_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "tools": [_chat_tool(index, tool) for index, tool in enumerate(self.tools or [])],
            "tool_choice": _chat_tool_choice(self.tool_choice),
            "parallel_tool_calls": self.parallel_tool_calls,
            "response_format": _chat_format(self.text.format),
            "reasoning_effort": self.reasoning.effort,
            "logprobs": self.shows_logprobs,
            "top_logprobs": self.top_logprobs if self.shows_logprobs else None,
            "user": self.user,
            "metadata": self.metadata,
        }
        return parse_chat(fields)


_REQUEST = TypeAdapter(ResponseRequest)


def parse_response(value: Any) -> ResponseRequest:
    """Returns the request in a decoded body. Raises InvalidRequest naming the field that is wrong."""
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object with `input`.")
    fields: Item = {}
    for name, given in value.items():
        if given is None or name in _IGNORED:
            continue
        if name in _UNSUPPORTED:
            if given not in _UNSUPPORTED[name]:
                raise _unsupported(name, name)
            continue
        fields[name] = given
    return check(_REQUEST, fields)


def _messages(items: list[Item]) -> list[Item]:
    """Returns the items as a chat's messages: a thought and the calls that follow it are one assistant's."""
    found: list[Item] = []
    joinable = False  # whether the last message is an assistant's that a tool call may join
    for index, item in enumerate(items):
        param = f"input[{index}]"
        match item.get("type", "message"):
            case "message":
                message = {"role": item.get("role"), "content": _content(item.get("content"), param)}
                if (
                    joinable
                    and message["role"] == "assistant"
                    and found[-1].keys() == {"role", "reasoning_content"}
                ):
                    found[-1] |= message
                else:
                    found.append(message)
                joinable = message["role"] == "assistant"
            case "function_call":
                call = {
                    "id": item.get("call_id"),
                    "type": "function",
                    "function": {"name": item.get("name"), "arguments": item.get("arguments")},
                }
                if not joinable:
                    found.append({"role": "assistant"})
                found[-1].setdefault("tool_calls", []).append(call)
                joinable = True
            case "function_call_output":
                output = _content(item.get("output"), param)
                found.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": output})
                joinable = False
            case "reasoning":
                parts = item.get("content") or item.get("summary") or []
                thought = "\n".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))
                found += [{"role": "assistant", "reasoning_content": thought}] if thought else []
                joinable = bool(thought)
            case other:
                raise _unsupported(f"an item of type {str(other)[:32]}", param)
    return found


def _content(content: Any, param: str) -> Any:
    """Returns the content of an item as a chat's: its parts have other names."""
    if not isinstance(content, list):
        return content
    return [_part(part, f"{param}.content[{number}]") for number, part in enumerate(content)]


def _part(part: Any, param: str) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    match kind:
        case "input_text" | "output_text":
            return {"type": "text", "text": part.get("text")}
        case "input_image" if isinstance(part.get("image_url"), str):
            return {"type": "image_url", "image_url": {"url": part["image_url"]}}
        case "input_file":
            file = {name: part[name] for name in ("file_data", "filename") if name in part}
            return {"type": "file", "file": file}
        case "refusal":
            return part
        case _:
            raise _unsupported(f"a part of type {str(kind)[:32]}", param)


def _chat_tool(index: int, tool: Item) -> Item:
    if tool.get("type") != "function":
        raise _unsupported(f"a tool of type {str(tool.get('type'))[:32]}", f"tools[{index}]")
    return {"type": "function", "function": {name: tool[name] for name in tool if name != "type"}}


def _chat_tool_choice(choice: str | Item | None) -> Any:
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    return choice


def _chat_format(form: Item | None) -> Any:
    if form is None or form.get("type") != "json_schema":
        return form
    return {"type": "json_schema", "json_schema": {name: form[name] for name in form if name != "type"}}


def response_tool(tool: Item) -> Item:
    """Returns a chat's tool as a response names it."""
    return {"type": "function", **tool["function"]}


def response_tool_choice(choice: str | Item | None) -> Any:
    """Returns a chat's choice of tools as a response names it."""
    if isinstance(choice, dict):
        return {"type": "function", "name": choice["function"]["name"]}
    return choice or "auto"


def response_format(form: Item | None) -> Item:
    """Returns a chat's response format as the format of a response's text."""
    if form is None:
        return {"type": "text"}
    return {"type": form["type"], **form.get("json_schema", {})}


def _unsupported(what: str, param: str) -> InvalidRequest:
    return InvalidRequest(
        f"{what} is not supported here; leave it out.", code="unsupported_parameter", param=param
    )
