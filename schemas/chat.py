"""A chat request follows OpenAI's chat completions, as far as the engines support them.

Fields that would change the answer and that no engine here supports are refused by name
(`unsupported_parameter`); fields that only concern OpenAI's own platform are ignored; any other field is an
`unknown_parameter`, as at OpenAI.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    field_validator,
    model_validator,
)

from schemas.errors import InvalidRequest
from schemas.generation_defaults import GenerationDefaults
from schemas.wire import check, path

DEFAULT_MODEL = "default"

_IGNORED = {
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
}
# Each with the values that request nothing, which are accepted.
_UNSUPPORTED: dict[str, list[Any]] = {
    "audio": [],
    "function_call": ["none"],
    "functions": [[]],
    "logit_bias": [{}],
    "modalities": [["text"]],
    "prediction": [],
    "reasoning_effort": [],
    "response_format": [{"type": "text"}],
    "tool_choice": ["none"],
    "tools": [[]],
    "verbosity": [],
    "web_search_options": [],
}
_IGNORED_IN_MESSAGE = {"annotations", "name", "refusal"}
_UNSUPPORTED_IN_MESSAGE = {"audio", "function_call", "tool_call_id", "tool_calls"}


class Message(BaseModel):
    """One message of the history. Text parts are joined by line breaks; `developer` means `system`."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant"]
    content: str

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.content and self.role != "assistant":
            raise ValueError(f"a {self.role} message must not be empty")
        return self


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    include_usage: bool = False
    include_obfuscation: bool = False  # accepted; chunks are never padded


Stop = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class ChatRequest(BaseModel):
    """A valid request. `n` is also bounded by the settings, the length by the engine's context."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    messages: list[Message] = Field(min_length=1)
    model: str = DEFAULT_MODEL
    n: int = Field(1, ge=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    stop: list[Stop] = Field(default_factory=list, max_length=4)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    user: str | None = Field(None, min_length=1, max_length=256)
    metadata: dict[Label, Annotated[str, StringConstraints(max_length=512)]] = Field(
        default_factory=dict, max_length=16
    )
    store: bool = True

    @field_validator("metadata")
    @classmethod
    def _names_a_conversation(cls, metadata: dict[str, str]) -> dict[str, str]:
        if metadata.get("conversation_id") == "":
            raise ValueError("conversation_id must not be empty")
        return metadata

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream to be true")
        return self

    def sampling(self, max_tokens: int | None, defaults: GenerationDefaults) -> dict[str, Any]:
        """Returns the effective sampling parameters in the names of OpenAI and vLLM: the request's, and the
        base's defaults for those that it does not name. `max_tokens` is as resolved."""
        named = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
        }
        return {
            "n": self.n,
            "max_tokens": max_tokens,
            "stop": self.stop,
            "seed": self.seed,
            **defaults.model_dump(),
            **{name: value for name, value in named.items() if value is not None},
        }


_REQUEST = TypeAdapter(ChatRequest)


def parse_chat(value: Any) -> ChatRequest:
    """Returns the request in a decoded body. Raises InvalidRequest naming the field that is wrong."""
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object with `messages`.")
    fields: dict[str, Any] = {}
    for name, given in value.items():
        if given is None or name in _IGNORED:
            continue
        if name in _UNSUPPORTED:
            if given not in _UNSUPPORTED[name]:
                raise _unsupported(name, name)
            continue
        fields[name] = given
    longest = fields.pop("max_completion_tokens", None)
    if longest is not None and fields.setdefault("max_tokens", longest) != longest:
        raise InvalidRequest(
            "max_tokens and max_completion_tokens differ; send only max_completion_tokens.",
            param="max_completion_tokens",
        )
    if isinstance(fields.get("stop"), str):
        fields["stop"] = [fields["stop"]]
    if isinstance(fields.get("messages"), list):
        fields["messages"] = [_message(index, item) for index, item in enumerate(fields["messages"])]
    return check(_REQUEST, fields)


def _message(index: int, value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    fields: dict[str, Any] = {}
    for name, given in value.items():
        if name in _IGNORED_IN_MESSAGE or (given is None and name != "content"):
            continue
        if name in _UNSUPPORTED_IN_MESSAGE:
            if given not in ([], ""):
                raise _unsupported(name, path("messages", index, name))
            continue
        fields[name] = given
    if fields.get("role") == "developer":
        fields["role"] = "system"
    if isinstance(fields.get("content"), list):
        fields["content"] = "\n".join(
            _text(part, path("messages", index, "content", number))
            for number, part in enumerate(fields["content"])
        )
    return fields


def _text(part: Any, param: str) -> str:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise InvalidRequest(f"{param}: a content part is an object with a type.", param=param)
    if part["type"] != "text":
        raise _unsupported(f"a content part of type {part['type'][:32]}", param)
    if not isinstance(part.get("text"), str):
        raise InvalidRequest(f"{param}: a text part needs its text.", param=f"{param}.text")
    return str(part["text"])


def _unsupported(what: str, param: str) -> InvalidRequest:
    return InvalidRequest(
        f"{what} is not supported here; leave it out.", code="unsupported_parameter", param=param
    )
