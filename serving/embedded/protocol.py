"""Request bodies of vLLM's HTTP API, as far as Hearken uses it: OpenAI's, `return_token_ids`, and adapters.

A field that this engine does not support is an error: to ignore it would give another reply than asked for.
"""

from collections.abc import Callable
from random import Random
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.errors import InvalidRequest
from serving.embedded.detokenizer import Detokenizer
from serving.embedded.grammar import (
    Grammar,
    Grammars,
    response_format_source,
    structured_outputs_source,
    tool_call_source,
)
from serving.embedded.model import Model
from serving.embedded.sampling import Sampling
from serving.embedded.sequence import Sequence

MAX_TOP_LOGPROBS = 21
"""OpenAI's 20, and one for the sampled token itself, which vLLM counts too."""

_IGNORED = {"user", "metadata", "store"}


class StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(BaseModel):
    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[dict[str, Any]] = Field(min_length=1)
    n: int = Field(1, ge=1, le=128)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=MAX_TOP_LOGPROBS)
    return_token_ids: bool = False
    logit_bias: dict[int, float] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def may_call(self) -> bool:
        """Returns whether tool calls are read from the reply."""
        return bool(self.tools) and self.tool_choice != "none"

    @property
    def named_tool(self) -> str | None:
        """Returns the tool that must be called, if one is named."""
        return self.tool_choice["function"]["name"] if isinstance(self.tool_choice, dict) else None

    @property
    def must_call(self) -> bool:
        """Returns whether the reply must be tool calls."""
        return self.may_call and self.tool_choice not in (None, "auto")

    def grammar(self, grammars: Callable[[], Grammars]) -> Grammar | None:
        """Returns what the reply must follow, if anything; `grammars` opens the compiler. Raises
        InvalidRequest."""
        if self.must_call:
            several = self.named_tool is None and self.parallel_tool_calls is not False
            source = tool_call_source(self.tools or [], self.named_tool, several=several)
            return grammars().compile(source, "tools")
        if self.structured_outputs is not None:
            source = structured_outputs_source(self.structured_outputs)
            return grammars().compile(source, "structured_outputs")
        form = response_format_source(self.response_format or {})
        return grammars().compile(form, "response_format") if form else None

    def sampling(self) -> Sampling:
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(self.top_k or 0, 0),
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias=tuple((self.logit_bias or {}).items()),
        )

    def sequences(self, model: Model, prompt: list[int], grammar: Grammar | None) -> list[Sequence]:
        """Returns one sequence for each choice, with its own random generator. Raises InvalidRequest where
        the prompt and the reply exceed the context."""
        left = model.context - len(prompt)
        max_tokens = self.max_tokens or left
        if not prompt or max_tokens > left or left < 1:
            raise InvalidRequest(
                f"This model's maximum context length is {model.context} tokens. The prompt has "
                f"{len(prompt)} and {self.max_tokens or 'at least 1'} were requested for the reply; shorten "
                "one of them.",
                code="context_length_exceeded",
                param="messages",
            )
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [
            Sequence(
                choice=choice,
                prompt=prompt,
                max_tokens=max_tokens,
                sampling=self.sampling(),
                top_logprobs=self.top_logprobs if self.logprobs else 0,
                eos_token_ids=model.eos_token_ids,
                detokenizer=Detokenizer(model.tokenizer, [stop for stop in stops if stop]),
                random=Random() if self.seed is None else Random(f"{self.seed}:{choice}"),
                grammar=grammar.copy() if grammar else None,
            )
            for choice in range(self.n)
        ]

    def check_supported(self) -> None:
        for name, value in (self.model_extra or {}).items():
            if value is not None and name not in _IGNORED:
                raise InvalidRequest(
                    f"{name} is not supported by the embedded engine; leave it out.",
                    code="unsupported_parameter",
                    param=name,
                )


class CompletionRequest(BaseModel):
    """A request for the log-probability of one token after others: it is the only token allowed."""

    model_config = ConfigDict(extra="forbid")

    model: str
    prompt: list[int] = Field(min_length=1)
    allowed_token_ids: list[int] = Field(min_length=1, max_length=1)
    max_tokens: Literal[1]
    temperature: Literal[0] = 0
    logprobs: Literal[0]


class LoadRequest(BaseModel):
    lora_name: str = Field(min_length=1)
    lora_path: str = Field(min_length=1)


class UnloadRequest(BaseModel):
    lora_name: str = Field(min_length=1)
