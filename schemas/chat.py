"""A chat request is OpenAI's, with the fields that vLLM adds to it.

Fields that are the engine's to do pass through, checked in shape and recorded (`Fleet.check_supported` asks
whether the engines have them). Fields that no engine here can have are refused by name
(`unsupported_parameter`); fields that only concern OpenAI's own platform are ignored; any other field is an
`unknown_parameter`, as at OpenAI. Null means that a field was not given.
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
from schemas.messages import FunctionName, Message, normalize
from schemas.users import UserName
from schemas.wire import check

DEFAULT_MODEL = "default"

_IGNORED = {
    "prediction",  # it makes the same answer faster
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
}
# Each with the values that ask for nothing, which are accepted.
_UNSUPPORTED: dict[str, list[Any]] = {
    "audio": [],
    "modalities": [["text"]],
    "verbosity": ["medium"],
    "web_search_options": [],
}
_NOTHING: dict[str, list[Any]] = {
    "functions": [[]],
    "logit_bias": [{}],
    "reasoning_effort": ["none"],
    "response_format": [{"type": "text"}],
    "stop": ["", []],
    "stream_options": [{}],
    "tools": [[]],
    "user": [""],
}
"""The values of fields that ask for nothing, and are as if they were not given."""

_TEMPLATE_OWN = {
    *("chat_template", "conversation", "documents", "messages", "tools", "add_generation_prompt"),
    *("continue_final_message", "tokenize", "tokenizer_kwargs", "padding", "truncation", "max_length"),
    *("return_tensors", "return_dict", "return_assistant_tokens_mask"),
}
"""What whoever calls a template gives to it, and no request may."""

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Bias = Annotated[float, Field(ge=-100, le=100)]
TokenName = Annotated[str, StringConstraints(pattern=r"^\d{1,9}$")]

_STRICT = ConfigDict(strict=True, extra="forbid", frozen=True)


class StreamOptions(BaseModel):
    model_config = _STRICT

    include_usage: bool = False
    include_obfuscation: bool = False  # accepted; chunks are never padded


class FunctionDefinition(BaseModel):
    """A function that the model may call; `parameters` is a JSON schema."""

    model_config = _STRICT

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(BaseModel):
    model_config = _STRICT

    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(BaseModel):
    model_config = _STRICT

    name: FunctionName


class NamedTool(BaseModel):
    model_config = _STRICT

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(BaseModel):
    model_config = _STRICT

    name: str = Field(max_length=256)
    description: str | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    model_config = _STRICT

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema belongs to the type json_schema, which needs it")
        return self


class EngineSampling(BaseModel):
    """What vLLM adds to OpenAI's sampling parameters."""

    model_config = _STRICT

    top_k: int | None = Field(None, ge=-1, lt=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=2)
    length_penalty: float | None = None
    logit_bias: dict[TokenName, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        None, max_length=1024
    )
    min_tokens: int | None = Field(None, ge=0, lt=2**31)
    stop_token_ids: list[TokenId] | None = Field(None, max_length=64)
    bad_words: list[str] | None = Field(None, max_length=64)
    allowed_token_ids: list[TokenId] | None = Field(None, max_length=4096)
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    thinking_token_budget: int | None = Field(None, ge=0, lt=2**31)
    repetition_detection: dict[str, Any] | None = None


class EnginePrompt(BaseModel):
    """What shapes the prompt and the reply's form, and is the engine's to do. `functions` and `function_call`
    are OpenAI's former names of tools; whoever uses them gets the answer in that form."""

    model_config = _STRICT

    tools: list[Tool] | None = Field(None, min_length=1, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    functions: list[FunctionDefinition] | None = Field(None, min_length=1, max_length=128)
    function_call: Literal["none", "auto"] | NamedFunction | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: dict[str, Any] | None = None
    reasoning_effort: Literal["minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    chat_template_kwargs: dict[str, bool | int | float | str] | None = Field(None, max_length=32)
    documents: list[dict[str, str]] | None = Field(None, max_length=256)
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    truncate_prompt_tokens: int | None = Field(None, ge=-1, lt=2**31)
    mm_processor_kwargs: dict[str, Any] | None = None
    media_io_kwargs: dict[str, dict[str, Any]] | None = None

    @field_validator("chat_template_kwargs")
    @classmethod
    def _replaces_nothing(cls, values: dict[str, Any] | None) -> dict[str, Any] | None:
        if taken := _TEMPLATE_OWN & (values or {}).keys():
            raise ValueError(f"{min(taken)} is not the template's to be given")
        return values

    @model_validator(mode="after")
    def _chooses_among_tools(self) -> Self:
        if self.tools and self.functions:
            raise ValueError("functions is the former name of tools; send only tools")
        names = {tool.function.name for tool in self.tools or ()}
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError(f"tool_choice names {self.tool_choice.function.name}, which is not in tools")
        if self.tool_choice == "required" and not names:
            raise ValueError('tool_choice "required" needs tools')
        return self


Stop = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=64)]


Metadata = Annotated[dict[Label, Annotated[str, StringConstraints(max_length=512)]], Field(max_length=16)]


class ChatRequest(EngineSampling, EnginePrompt):
    """A valid request. `n` is also bounded by the settings, the length by the engine's context. `compare` is
    said by a page that can show two replies: the share of its messages that it would show so."""

    model_config = _STRICT

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
    include_reasoning: bool = True
    user: UserName | None = None
    metadata: Metadata = Field(default_factory=dict)
    store: bool = True
    compare: float | None = Field(None, ge=0, le=0.5)

    @field_validator("metadata")
    @classmethod
    def _names_a_conversation(cls, metadata: dict[str, str]) -> dict[str, str]:
        if metadata.get("conversation_id") == "":
            raise ValueError("conversation_id must not be empty")
        return metadata

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        return self

    @property
    def include_usage(self) -> bool:
        """Returns whether a stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, max_tokens: int | None, defaults: GenerationDefaults) -> dict[str, Any]:
        """Returns the effective sampling parameters in the names of OpenAI and vLLM: the request's, and the
        base's defaults for those that it does not name. `max_tokens` is as resolved."""
        named = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            **self.model_dump(include=set(EngineSampling.model_fields)),
        }
        return {
            "n": self.n,
            "max_tokens": max_tokens,
            "stop": self.stop,
            "seed": self.seed,
            **defaults.model_dump(),
            **{name: value for name, value in named.items() if value is not None},
        }

    def engine_fields(self) -> dict[str, Any]:
        """Returns the given fields of `EnginePrompt`, as they go to an engine and into the record."""
        names = set(EnginePrompt.model_fields)
        fields = self.model_dump(include=names, exclude_none=True, by_alias=True)
        if functions := fields.pop("functions", None):
            fields["tools"] = [{"type": "function", "function": function} for function in functions]
            choice = fields.pop("function_call", "auto")
            named = isinstance(choice, dict)
            fields["tool_choice"] = {"type": "function", "function": choice} if named else choice
        return fields

    def needed(self) -> set[str]:
        """Returns the names of the given fields that not every engine has."""
        sampling = {name for name in EngineSampling.model_fields if getattr(self, name) is not None}
        return sampling | self.engine_fields().keys()

    @property
    def media(self) -> list[dict[str, Any]]:
        """Returns the images and other parts that are not text."""
        return [part for message in self.messages for part in message.media]

    @property
    def names_addresses(self) -> bool:
        """Returns whether one of them is an address, not the file itself."""
        return any(not str(each[each["type"]].get("url", "data:")).startswith("data:") for each in self.media)


_REQUEST = TypeAdapter(ChatRequest)


def parse_chat(value: Any) -> ChatRequest:
    """Returns the request in a decoded body. Raises InvalidRequest naming the field that is wrong."""
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object with `messages`.")
    fields: dict[str, Any] = {}
    for name, given in value.items():
        if given is None or name in _IGNORED or given in _NOTHING.get(name, ()):
            continue
        if name in _UNSUPPORTED:
            if given not in _UNSUPPORTED[name]:
                raise InvalidRequest(
                    f"{name} is not supported here; leave it out.", code="unsupported_parameter", param=name
                )
            continue
        fields[name] = _without_nulls(given) if name in _NULLS_INSIDE else given
    longest = fields.pop("max_completion_tokens", None)
    if longest is not None and fields.setdefault("max_tokens", longest) != longest:
        raise InvalidRequest(
            "max_tokens and max_completion_tokens differ; send only max_completion_tokens.",
            param="max_completion_tokens",
        )
    if isinstance(fields.get("stop"), str):
        fields["stop"] = [fields["stop"]]
    if not fields.get("stream"):
        fields.pop("stream_options", None)
    if isinstance(fields.get("messages"), list):
        fields["messages"] = normalize(fields["messages"])
    _drop_idle_choices(fields)
    return check(_REQUEST, fields)


_NULLS_INSIDE = {"metadata", "response_format", "stream_options"}


def _without_nulls(value: Any) -> Any:
    return (
        {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value
    )


def _drop_idle_choices(fields: dict[str, Any]) -> None:
    """Drops a choice of tools where there are none, which asks for nothing."""
    for choice, tools in (("tool_choice", "tools"), ("function_call", "functions")):
        if tools not in fields and fields.get(choice) in ("none", "auto"):
            del fields[choice]
    if "tools" not in fields:
        fields.pop("parallel_tool_calls", None)
