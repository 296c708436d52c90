"""Every setting, with its unit. Read from `hearken.toml`, then `HEARKEN_…` variables, then flags;
the later wins. Nested fields take two underscores: `HEARKEN_TRAINER__ROUND_VOTES=50`."""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from schemas.renamed_fields import RenamedFields


class ServingSettings(BaseModel):
    """The chat API and the router."""

    model_config = ConfigDict(extra="forbid")

    max_body_bytes: int = Field(1_048_576, ge=1_024, description="largest request body, bytes")
    max_choices: int = Field(8, ge=1, description="largest n of one request, replies")
    max_tokens: int = Field(256, ge=1, description="length of a reply when the request names none, tokens")
    engine_timeout: float = Field(120, gt=0, description="longest wait for an engine's next token, seconds")
    requests_per_minute: int = Field(
        1_200, ge=1, description="per key, and per address without a known key, requests/minute"
    )
    trusted_proxies: list[str] = Field(
        ["127.0.0.1"],
        description="balancers whose X-Forwarded-For is believed, addresses or networks; `*`: all",
    )
    base_share: float = Field(
        0.02,
        ge=0,
        le=0.5,
        description="share of conversations kept on the base, to measure lift",
    )
    promotion: Literal["direct", "canary"] = Field(
        "direct", description="direct: past the gate, then live; canary: waits for an operator's share"
    )


class KafkaSettings(BaseModel):
    """A broker to carry the votes. Without servers, the trainer reads the outbox table itself."""

    model_config = ConfigDict(extra="forbid")

    servers: list[str] = Field(default_factory=list, description="host:port to start from; empty: no broker")
    topic: str = Field("hearken.feedback.v1", description="made by the relay when it is missing")
    partitions: int = Field(6, ge=1, description="of a topic that the relay makes, partitions")
    replication: int = Field(1, ge=1, description="of a topic that the relay makes, copies")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="how to speak to the broker"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        None, description="with SASL: how to prove who we are"
    )
    sasl_username: str | None = Field(None, description="with SASL")
    sasl_password: SecretStr | None = Field(None, description="with SASL")
    ssl_cafile: Path | None = Field(None, description="with SSL: authorities to trust; none: the system's")
    ssl_certfile: Path | None = Field(None, description="with SSL: our own certificate, where one is asked")
    ssl_keyfile: Path | None = Field(None, description="with SSL: its key")


class EngineSettings(BaseModel):
    """The process that generates tokens."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["embedded", "vllm"] = Field("embedded", description="which engine `hearken up` starts")
    max_streams: int = Field(32, ge=1, description="replies generated at once, replies")
    max_adapters: int = Field(6, ge=4, description="adapters resident at once, the base included, adapters")
    threads: int = Field(1, ge=1, description="torch threads of an engine without a GPU, threads")
    probe_tolerance: float = Field(
        0.05, gt=0, description="mean distance allowed between probe logprobs, nats per token"
    )


class VllmSettings(BaseModel):
    """vLLM's servers, or whatever else speaks the part of their API that serving uses."""

    model_config = ConfigDict(extra="forbid")

    urls: list[str] = Field(
        default_factory=list,
        description="running replicas, each address of a URL's host being one; empty: `up` starts one",
    )
    gpu_memory: float = Field(
        0.5,
        gt=0,
        le=1,
        description="of the vLLM that `up` starts, share of the GPU; the trainer has the rest",
    )
    cpu_memory: int = Field(1, ge=1, description="of the vLLM that `up` starts without a GPU: cache, GiB")
    eager: bool = Field(
        False, description="of the vLLM that `up` starts: uncompiled, ready sooner and slower after"
    )


class JudgeSettings(BaseModel):
    """An automated rater behind an OpenAI-compatible endpoint. Without a URL there is none."""

    model_config = ConfigDict(extra="forbid")

    url: str | None = Field(
        None, description="of the endpoint, up to /v1; the conversations that are judged are sent there"
    )
    model: str = Field("default", description="that judges, and that its votes are known by")
    key: SecretStr | None = Field(None, description="for the endpoint")
    rubric: str = Field(
        "You judge replies of a chat assistant. A reply is good if it is right, answers what was asked and is"
        " pleasant to read.",
        description="what the model is told to judge by",
    )
    share: float = Field(0.1, gt=0, le=1, description="of the turns, judged, share")
    newest_seconds: float = Field(600, gt=0, description="older turns are not judged any more, seconds")
    timeout: float = Field(30, gt=0, description="longest wait for a verdict, seconds")


class RewardSettings(RenamedFields):
    """The reward model."""

    section = "trainer.reward"
    renamed: ClassVar = {"caution": "uncertainty_penalty", "judges_share": "judge_weight_cap"}

    members: int = Field(5, ge=2, description="members, each with its own weights on the votes")
    uncertainty_penalty: float = Field(
        0.3, ge=0, description="κ: reward is the ensemble's mean minus κ times its std"
    )
    half_life_days: float = Field(
        60, gt=0, description="a vote so much older than the newest weighs half as much, days"
    )
    judge_weight_cap: float = Field(
        0.25, ge=0, description="most that all votes of judges weigh, against people's, share"
    )


class RLSettings(RenamedFields):
    """How the policy is improved."""

    section = "trainer.rl"
    renamed: ClassVar = {
        "recompute": "gradient_checkpointing",
        "steps": "steps_per_round",
        "prompts": "prompts_per_step",
        "replies": "samples_per_prompt",
        "kl_penalty": "kl_coef",
        "drift_penalty": "style_drift_coef",
        "imitation": "edit_sft_coef",
        "exemplars": "base_sft_coef",
        "unended_penalty": "no_eos_penalty",
        "truncation": "importance_weight_cap",
    }
    removed: ClassVar = {"clip": "at one optimizer step on each batch, the ratio that it bounds is 1"}

    algorithm: Literal["rloo", "grpo", "online_dpo", "dpo", "kto"] = Field(
        "rloo",
        description="rloo, grpo, online_dpo: samples and the reward model; dpo, kto: the votes themselves",
    )
    sampler: Literal["in_process", "vllm"] = Field(
        "in_process", description="who samples replies to learn from: the trainer itself, or vllm.urls"
    )
    rank: int = Field(16, ge=1, description="LoRA rank")
    alpha: int = Field(32, ge=1, description="LoRA α")
    gradient_checkpointing: bool = Field(
        False,
        description="activations are computed again on the way back: less memory, a third more time",
    )
    learning_rate: float = Field(2e-3, gt=0, description="of AdamW, at its highest in a round")
    warmup_steps: int = Field(3, ge=0, description="steps")
    steps_per_round: int = Field(8, ge=1, description="policy-gradient steps of a round, steps")
    prompts_per_step: int = Field(32, ge=1, description="prompts of a step, prompts")
    samples_per_prompt: int = Field(4, ge=2, description="k, replies sampled for each prompt")
    max_tokens: int = Field(90, ge=1, description="longest reply sampled, tokens")
    kl_coef: float = Field(
        0.15,
        ge=0,
        description="β on KL(π‖π_base), reward per nat; grows as a budget is used up",
    )
    style_drift_coef: float = Field(
        1.0,
        ge=0,
        description="on what changes in the replies although no vote asks for it, reward per nat",
    )
    kl_budget: float = Field(0.3, gt=0, description="the guard stops a round above this KL, nats per token")
    entropy_floor: float = Field(
        0.25, ge=0, lt=1, description="the guard stops a round below this share of the base's entropy, share"
    )
    edit_sft_coef: float = Field(
        0.0, ge=0, description="weight of imitating edits beside the algorithm's own loss, nats per token"
    )
    base_sft_coef: float = Field(
        0.3,
        ge=0,
        description="weight of imitating the base's own replies that are liked, beside the algorithm's loss",
    )
    no_eos_penalty: float = Field(
        2.0, ge=0, description="taken from the reward of a reply that does not end by itself"
    )
    importance_weight_cap: float = Field(
        2.0, ge=1, description="largest importance weight against the sampler"
    )


class GateSettings(RenamedFields):
    """What a candidate must pass before anyone sees it."""

    section = "trainer.gate"
    renamed: ClassVar = {
        "prompts": "eval_prompts",
        "probes": "knowledge_questions",
        "knowledge_loss": "max_knowledge_loss",
        "length_ratio": "max_length_ratio",
        "unended_gain": "max_no_eos_increase",
        "repetition_gain": "max_repetition_increase",
        "distinct_ratio": "min_distinct_ratio",
        "probe_file": "knowledge_file",
    }

    folds: int = Field(5, ge=2, description="one fold is held out for the gate each round")
    eval_prompts: int = Field(
        32, ge=4, description="held-out prompts answered by candidate and live, prompts"
    )
    knowledge_questions: int = Field(512, ge=1, description="knowledge probes asked, probes")
    max_knowledge_loss: float = Field(
        0.03, gt=0, description="largest loss of knowledge against the base, share"
    )
    max_length_ratio: float = Field(
        3.0, gt=1, description="mean reply length may change by at most this factor against the base"
    )
    max_no_eos_increase: float = Field(
        0.05, ge=0, description="how many more replies than the base's may not end by themselves, share"
    )
    max_repetition_increase: float = Field(
        0.1, ge=0, description="how much more of a reply than of the base's may repeat itself, share"
    )
    min_distinct_ratio: float = Field(
        0.4, ge=0, le=1, description="least different token pairs, against the base's, share"
    )
    knowledge_file: Path | None = Field(
        None, description="knowledge probes of your own model: JSON lines of prompt and accept"
    )


class TrainerSettings(BaseModel):
    """When the trainer learns, and with what."""

    model_config = ConfigDict(extra="forbid")

    round_votes: int = Field(25, ge=1, description="new votes that start a round at once, votes")
    round_seconds: float = Field(45, gt=0, description="starts a round with fewer new votes, seconds")
    min_votes: int = Field(40, ge=2, description="fewest votes in all before the first round, votes")
    threads: int = Field(
        1,
        ge=1,
        description="torch threads; more than the cores that nobody else uses are slower than one, threads",
    )
    seed: int = Field(0, ge=0, description="of every random choice the trainer makes")
    reward: RewardSettings = RewardSettings()
    rl: RLSettings = RLSettings()
    gate: GateSettings = GateSettings()


class Settings(BaseSettings):
    """The whole configuration of one installation."""

    model_config = SettingsConfigDict(
        env_prefix="HEARKEN_", env_nested_delimiter="__", toml_file="hearken.toml", extra="forbid"
    )

    host: str = Field("127.0.0.1", description="of the API")
    port: int = Field(8000, ge=1, le=65_535, description="of the API")
    data_dir: Path = Field(Path(".hearken"), description="folder of the database, policies and records")
    database_url: str | None = Field(None, description="Postgres to use; none: an embedded one in data_dir")
    connections: int = Field(8, ge=2, description="to the database, of one process, connections")
    statement_timeout: float = Field(30, gt=0, description="longest statement of serving, seconds")
    retention_days: int | None = Field(
        None,
        ge=1,
        description="turns, and the votes on them, go when their week ended so long ago; none: never, days",
    )
    model: str = Field("starter", description="base model: `starter`, a local directory, or a hub id")
    admin_key: str | None = Field(None, description="the admin key, instead of a new random one")
    public_key: str | None = Field(None, description="the publishable key, instead of a new random one")
    project: str = Field("default", description="the project that trains and is served")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="of the logs")
    serving: ServingSettings = ServingSettings()
    kafka: KafkaSettings = KafkaSettings()
    engine: EngineSettings = EngineSettings()
    vllm: VllmSettings = VllmSettings()
    judge: JudgeSettings = JudgeSettings()
    trainer: TrainerSettings = TrainerSettings()

    @property
    def policies_dir(self) -> Path:
        return self.data_dir / "policies"

    @property
    def rounds_dir(self) -> Path:
        return self.data_dir / "rounds"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load(**flags: Any) -> Settings:
    """The effective settings; flags that are None were not given."""
    return Settings(**{name: value for name, value in flags.items() if value is not None})
