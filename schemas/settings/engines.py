"""Settings of the engines: what every engine has, and what vLLM has beside."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class EngineSettings(BaseModel):
    """The engine: the process that generates tokens."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["embedded", "vllm"] = Field("embedded", description="engine that `hearken up` starts")
    max_streams: int = Field(32, ge=1, description="replies generated concurrently, replies")
    max_adapters: int = Field(
        6,
        ge=4,
        description="adapters in an engine's memory at once, the base included; more are paged, adapters",
    )
    threads: int = Field(1, ge=1, description="torch threads of an engine without a GPU, threads")
    probe_tolerance: float = Field(
        0.05, gt=0, description="largest mean difference of probe logprobs, nats per token"
    )


class VllmSettings(BaseModel):
    """vLLM servers, or other servers with the part of their API that serving uses."""

    model_config = ConfigDict(extra="forbid")

    urls: list[str] = Field(
        default_factory=list,
        description="running replicas, one for each address of a URL's host; empty: `hearken up` starts one",
    )
    key: SecretStr | None = Field(
        None,
        description="key that they ask for (vLLM's `--api-key`); none: none, or a new one for an engine that"
        " `hearken up` starts",
    )
    gpu_memory: float = Field(
        0.5,
        gt=0,
        le=1,
        description="GPU memory of the vLLM that `hearken up` starts, share; the trainer uses the rest",
    )
    cpu_memory: int = Field(
        1, ge=1, description="cache of the vLLM that `hearken up` starts without a GPU, GiB"
    )
    eager: bool = Field(False, description="start vLLM uncompiled: ready sooner, slower afterwards")
    tool_parser: str | None = Field(
        None,
        description="how the model writes tool calls, for the vLLM that `hearken up` starts (its"
        " --tool-call-parser); none: `hermes` where the chat template writes so",
    )
    reasoning_parser: str | None = Field(
        None,
        description="how the model marks its thoughts, for the vLLM that `hearken up` starts (its"
        " --reasoning-parser)",
    )
