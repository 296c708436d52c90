"""The requests of vLLM's HTTP API that Hearken uses: OpenAI's, plus `return_token_ids` and adapters.

A field that this engine does not know is refused rather than ignored: the reply would not be what was asked.
"""

from random import Random
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.errors import InvalidRequest
from serving.embedded.model import Model
from serving.embedded.sampling import Sampling
from serving.embedded.sequence import Sequence
from serving.embedded.text import Text

MOST_TOPS = 21
"""OpenAI's 20, and one more: the client counts as vLLM does, whose first is the token itself."""

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
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=MOST_TOPS)
    return_token_ids: bool = False

    def sampling(self) -> Sampling:
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
        )

    def sequences(self, model: Model, prompt: list[int], tops: int) -> list[Sequence]:
        """One for each choice, with a generator of its own. Raises InvalidRequest if they cannot fit."""
        room = model.context - len(prompt)
        limit = self.max_tokens or room
        if not prompt or limit > room or room < 1:
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
                limit=limit,
                sampling=self.sampling(),
                tops=tops,
                ends=model.ends,
                text=Text(model.tokenizer, [stop for stop in stops if stop]),
                random=Random() if self.seed is None else Random(f"{self.seed}:{choice}"),
            )
            for choice in range(self.n)
        ]

    def refuse_unknown(self) -> None:
        for name, value in (self.model_extra or {}).items():
            if value is not None and name not in _IGNORED:
                raise InvalidRequest(
                    f"The embedded engine does not support '{name}'.",
                    code="unsupported_parameter",
                    param=name,
                )


class CompletionRequest(BaseModel):
    """How likely a token is after others: it is generated as the only one that is allowed."""

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
