"""Settings come from `hearken.toml`, then `HEARKEN_…` variables, then flags; a later source overrides an
earlier one. Nested fields take two underscores: `HEARKEN_TRAINER__ROUND_VOTES=50`."""

from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from schemas.projects import PersonalData, Promotion
from schemas.renamed_fields import RenamedFields
from schemas.settings_readers import Environment, TomlFile


def _network(text: str) -> str:
    ip_network(text)
    return text


Network = Annotated[str, AfterValidator(_network)]


class ServingSettings(BaseModel):
    """The chat API and the router."""

    model_config = ConfigDict(extra="forbid")

    max_body_bytes: int = Field(1_048_576, ge=1_024, description="largest request body, bytes")
    max_choices: int = Field(8, ge=1, description="largest `n` of a request, replies")
    max_tokens: int = Field(256, ge=1, description="reply length when the request sets none, tokens")
    engine_timeout: float = Field(120, gt=0, description="longest wait for the engine's next token, seconds")
    requests_per_minute: int = Field(
        6_000, ge=1, description="rate limit of a key: chats, votes and other requests each, per minute"
    )
    address_requests_per_minute: int = Field(
        600,
        ge=1,
        description="rate limit of an address with a publishable key or without a known one: chats, votes and"
        " other requests each, per minute",
    )
    user_requests_per_minute: int = Field(
        120, ge=1, description="rate limit of a user at such an address, chats per minute"
    )
    network_votes_per_hour: int = Field(
        600,
        ge=1,
        description="rate limit of a network (IPv4: /24, IPv6: /64) with publishable keys, votes per hour;"
        " people whom a server names do not count",
    )
    websockets_per_address: int = Field(
        100, ge=1, description="websockets that one address may have open at a replica"
    )
    spool_bytes: int = Field(
        268_435_456,
        ge=0,
        description="turns and votes that wait on this machine's disk while Postgres is away, bytes; 0: none,"
        " so requests fail meanwhile",
    )
    spool_dir: Path | None = Field(
        None, description="directory where they wait, of any number of processes; none: `spool` in data_dir"
    )
    trusted_proxies: list[str] = Field(
        default_factory=list,
        description="load balancers whose X-Forwarded-For is trusted: addresses or networks; `*`: all",
    )
    allowed_hosts: list[str] = Field(
        default_factory=list,
        description="host names that the API answers to; none: loopback's where it listens on loopback, else"
        " any",
    )
    webhook_networks: list[Network] = Field(
        default_factory=list,
        description="networks that are not public and that webhooks may go to, also by http, as in"
        " 127.0.0.0/8; empty: public addresses by https only",
    )
    base_share: float = Field(
        0.02,
        ge=0,
        le=0.5,
        description="people kept on the base to measure the lift, share",
    )
    promotion: Promotion = Field(
        "direct",
        description="how a candidate goes live. direct: once the gate passes, and by a canary where it cannot"
        " tell; canary: people on growing shares decide; duel: people who compare two replies decide; manual:"
        " it waits until an operator decides",
    )
    tainted_policy: Literal["keep", "replace"] = Field(
        "keep",
        description="what answers while a live policy that learned from an erased person is rebuilt: keep:"
        " itself; replace: its newest ancestor that did not",
    )
    canary_share: float = Field(
        0.3,
        gt=0,
        le=0.5,
        description="people who try a policy that the gate could not judge, with direct promotion, share",
    )
    personal_choices: int = Field(
        4,
        ge=1,
        le=16,
        description="replies sampled for a person whose taste is known, of which the best is sent; 1: none is"
        " chosen",
    )
    pairs_per_day: int = Field(
        5,
        ge=0,
        le=100,
        description="times a day that a person is asked to compare two replies to their message, where they"
        " answer; 0: never",
    )
    scorer_url: str | None = Field(
        None,
        description="embedded engine that scores replies by people's tastes, where vLLM answers; none: the"
        " engines themselves, if they can",
    )
    ramp: list[Annotated[float, Field(gt=0, le=0.5)]] = Field(
        [0.05, 0.2, 0.5],
        min_length=1,
        max_length=10,
        description="people who try a candidate, one stage after another, with promotion by canary, shares",
    )
    rollout_margin: float = Field(
        0.0,
        ge=0,
        le=0.2,
        description="approval that a candidate may have lost at most and still be promoted; 0: it must be"
        " shown to be better, share",
    )

    @field_validator("ramp")
    @classmethod
    def _grows(cls, ramp: list[float]) -> list[float]:
        if ramp != sorted(set(ramp)):
            raise ValueError("each share must be larger than the one before")
        return ramp


class KafkaSettings(BaseModel):
    """The Kafka broker of the feedback log. Without servers, the trainer reads the outbox table."""

    model_config = ConfigDict(extra="forbid")

    servers: list[str] = Field(
        default_factory=list, description="bootstrap servers, host:port; empty: no broker"
    )
    topic: str = Field(
        "hearken.feedback.v1", description="topic of the log; the relay creates it if it is missing"
    )
    partitions: int = Field(6, ge=1, description="partitions of a topic that the relay creates")
    replication: int = Field(1, ge=1, description="replication factor of a topic that the relay creates")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="security protocol of the broker"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        None, description="SASL mechanism"
    )
    sasl_username: str | None = Field(None, description="SASL user name")
    sasl_password: SecretStr | None = Field(None, description="SASL password")
    ssl_cafile: Path | None = Field(None, description="SSL: file of trusted authorities; none: the system's")
    ssl_certfile: Path | None = Field(
        None, description="SSL: file of the client certificate, if the broker asks for one"
    )
    ssl_keyfile: Path | None = Field(None, description="SSL: file of the client certificate's key")


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


class JudgeSettings(BaseModel):
    """The judge: an automated rater behind an OpenAI-compatible endpoint. Without a URL there is none."""

    model_config = ConfigDict(extra="forbid")

    url: str | None = Field(
        None,
        description="URL of the endpoint, up to /v1; judged conversations, and comments, are sent there",
    )
    model: str = Field("default", description="model that judges; its name is also the rater's")
    key: SecretStr | None = Field(None, description="API key of the endpoint")
    rubric: str = Field(
        "You judge replies of a chat assistant. A reply is good if it is right, answers what was asked and is"
        " pleasant to read.",
        description="instructions to the judging model",
    )
    share: float = Field(0.1, gt=0, le=1, description="turns that are judged, share")
    newest_seconds: float = Field(
        600, gt=0, description="age after which a turn is no longer judged, seconds"
    )
    timeout: float = Field(30, gt=0, description="longest wait for a verdict, seconds")


class RewardSettings(RenamedFields):
    """The reward model."""

    section = "trainer.reward"
    renamed: ClassVar = {"caution": "uncertainty_penalty", "judges_share": "judge_weight_cap"}
    newer: ClassVar = {"groups", "kind", "newcomer_weight"}

    kind: Literal["probe", "auto"] = Field(
        "probe",
        description="`probe`: linear members on features of the frozen base; `auto`: where votes are many,"
        " also heads on a LoRA of the base, as far as they explain held-out votes better",
    )
    members: int = Field(
        5, ge=2, description="members of the ensemble, each with its own bootstrap weights on the votes"
    )
    uncertainty_penalty: float = Field(
        0.3, ge=0, description="κ: the reward is the ensemble's mean minus κ times its standard deviation"
    )
    half_life_days: float = Field(
        60, gt=0, description="age against the newest vote at which a vote's weight halves, days"
    )
    judge_weight_cap: float = Field(
        0.25, ge=0, description="cap on the total weight of judges' votes, relative to the people's, share"
    )
    newcomer_weight: float = Field(
        1.0,
        ge=0,
        le=1,
        description="weight of a newcomer's votes, which grows to 1 with the days on which they vote and the"
        " replies of which others think alike; 1: all count alike, share",
    )
    groups: Literal["mean", "least_satisfied"] = Field(
        "mean",
        description="what the policy learns where people's tastes differ: `mean`: what they like on average;"
        " `least_satisfied`: as much what pleases the group that it pleases least",
    )


class RLSettings(RenamedFields):
    """Reinforcement learning of the policy."""

    section = "trainer.rl"
    renamed: ClassVar = {
        "recompute": "gradient_checkpointing",
        "steps": "steps_per_round",
        "prompts": "prompts_per_step",
        "replies": "samples_per_prompt",
        "kl_penalty": "kl_coef",
        "drift_penalty": "style_drift_coef",
        "imitation": "edit_coef",
        "edit_sft_coef": "edit_coef",
        "exemplars": "base_sft_coef",
        "unended_penalty": "no_eos_penalty",
        "truncation": "importance_weight_cap",
    }
    removed: ClassVar = {
        "clip": "at one optimizer step on each batch, the ratio that it bounds is 1",
        "kl_budget": "it was in nats per token; trainer.rl.kl_per_reply is the budget, in nats per reply",
    }

    @model_validator(mode="before")
    @classmethod
    def _imitate_as_older_releases(cls, values: Any) -> Any:
        """What was weighted under an old name was imitation."""
        if isinstance(values, Mapping) and {"imitation", "edit_sft_coef"} & values.keys():
            return {"edits": "imitation", **values}
        return values

    algorithm: Literal["rloo", "grpo", "online_dpo", "dpo", "kto"] = Field(
        "rloo",
        description="rloo, grpo, online_dpo learn from samples and the reward model; dpo, kto from the votes",
    )
    sampler: Literal["in_process", "vllm"] | None = Field(
        None,
        description="where replies are sampled to learn from and to evaluate: in the trainer's process, or on"
        " vllm.urls; none: there where the engine is vLLM",
    )
    rank: int = Field(16, ge=1, description="LoRA rank")
    alpha: int = Field(32, ge=1, description="LoRA α")
    gradient_checkpointing: bool = Field(
        False,
        description="recompute activations in the backward pass: less memory, a third more time",
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="peak learning rate of AdamW at the start of a round; none: the one that the last round"
        " found, at first by the model's width",
    )
    step_kl: float = Field(
        1.0,
        gt=0,
        description="trust region: largest KL of a step of 128 samples, replayed ones included, to the"
        " policy before it (of fewer: as much less), nats per reply",
    )
    warmup_steps: int = Field(3, ge=0, description="linear warm-up of the learning rate, steps")
    steps_per_round: int | None = Field(
        None, ge=1, description="optimizer steps of a round; none: in proportion to the new votes, steps"
    )
    prompts_per_step: int | None = Field(
        None, ge=1, description="prompts of a step; none: as many as max_round_seconds allows, prompts"
    )
    samples_per_prompt: int = Field(4, ge=2, description="K: replies sampled for each prompt")
    max_tokens: int | None = Field(
        None, ge=1, description="longest sampled reply; none: by the lengths of the replies served, tokens"
    )
    kl_coef: float = Field(
        0.15,
        ge=0,
        description="β of the KL penalty KL(π‖π_base), reward per nat; it grows as the budget is used up",
    )
    style_drift_coef: float = Field(
        1.0,
        ge=0,
        description="penalty on style drift: changes of the replies that no vote asks for, reward per nat",
    )
    kl_per_reply: float = Field(
        8.0, gt=0, description="the guard stops a round above this KL to the base, nats per reply"
    )
    entropy_floor: float = Field(
        0.25, ge=0, lt=1, description="the guard stops a round below this entropy, share of the base's"
    )
    edits: Literal["none", "imitation", "self_distillation", "preference"] = Field(
        "none",
        description="how edits teach beside the reward model: SFT on the edited text; a teacher that sees the"
        " edit, or the comment; the edit against the policy's own samples",
    )
    edit_coef: float | None = Field(
        None, ge=0, description="weight of what edits teach so; none: by the way, 0.1 to 1"
    )
    base_sft_coef: float = Field(
        0.3,
        ge=0,
        description="weight of an auxiliary SFT loss on base samples, which are weighted by their reward",
    )
    no_eos_penalty: float = Field(
        2.0,
        ge=0,
        description="subtracted from the reward of a sample without an end token, as far as the policy has"
        " more of them than the base",
    )
    importance_weight_cap: float = Field(
        2.0, ge=1, description="cap on the importance weight π/μ against the sampler"
    )


class GateSettings(RenamedFields):
    """The gate: what a candidate must pass before anyone sees it."""

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

    folds: int = Field(5, ge=2, description="folds of the votes; one is held out for the gate each round")
    eval_prompts: int = Field(
        32, ge=4, description="held-out prompts that the candidate and the live policy answer, prompts"
    )
    knowledge_questions: int = Field(512, ge=1, description="knowledge questions asked, questions")
    max_reward_loss: float = Field(
        0.0,
        ge=0,
        description="a candidate goes live at once only where unseen votes show, at 95%, that it loses less,"
        " logits",
    )
    max_approval_width: float = Field(
        0.5,
        gt=0,
        description="widest 90% interval of a candidate's approval, by recorded votes, with which it may go"
        " live at once, share",
    )
    max_knowledge_loss: float = Field(
        0.03, gt=0, description="largest loss of knowledge against the base, share"
    )
    max_length_ratio: float = Field(
        3.0, gt=1, description="largest factor by which the mean reply length may differ from the base's"
    )
    max_no_eos_increase: float = Field(
        0.05, ge=0, description="largest increase of replies without an end token against the base, share"
    )
    max_repetition_increase: float = Field(
        0.1, ge=0, description="largest increase of repetition within replies against the base, share"
    )
    min_distinct_ratio: float = Field(
        0.4, ge=0, le=1, description="least distinct token bigrams, share of the base's"
    )
    max_dodging_increase: float = Field(
        0.1,
        ge=0,
        le=1,
        description="largest increase of replies that refuse, or only ask back, against the base, share",
    )
    max_begging_increase: float = Field(
        0.05,
        ge=0,
        le=1,
        description="largest increase of replies that beg for votes, against the base, share",
    )
    max_toxicity_increase: float = Field(
        0.05,
        ge=0,
        le=1,
        description="largest increase of replies with offensive words, against the base, share",
    )
    max_sycophancy_increase: float = Field(
        0.1,
        ge=0,
        le=1,
        description="largest increase, against the base, of what a false claim adds to the probability of the"
        " false answer",
    )
    max_compliance_increase: float = Field(
        0.1,
        ge=0,
        le=1,
        description="largest share of the harmful requests that the base refuses, and the candidate answers",
    )
    blocklist_file: Path | None = Field(
        None,
        description="what no reply may say: a word, a phrase, or a regular expression between slashes a line",
    )
    knowledge_file: Path | None = Field(
        None, description="knowledge questions beside the base's own: JSON lines of prompt and accept"
    )


class CriteriaSettings(BaseModel):
    """Criteria: what people say about why a reply is good or bad. The known ones are helpful, correct, safe,
    tone and length; others are the project's own reasons, by their name."""

    model_config = ConfigDict(extra="forbid")

    weights: dict[str, Annotated[float, Field(ge=-10, le=10)]] = Field(
        {},
        description="what a criterion adds to the reward, by its name, in standard deviations of the reward",
    )
    may_not_fall: list[str] = Field(
        [], description="criteria that a policy may not lose: constraints of training and of the gate"
    )
    max_fall: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="largest fall of such a criterion that the gate lets pass, share of the replies",
    )


class TrainerSettings(BaseModel):
    """The trainer: when it runs a round, and how."""

    model_config = ConfigDict(extra="forbid")

    all_projects: bool = Field(
        True, description="train all projects of the database, one after another; false: only `project`"
    )
    round_votes: int = Field(25, ge=1, description="new votes that start a round at once, votes")
    round_seconds: float = Field(
        45, gt=0, description="time after which fewer new votes start a round, seconds"
    )
    max_round_seconds: float = Field(
        420,
        gt=0,
        description="time that a round may take: the prompts of a step follow from it, seconds",
    )
    restart_rounds: int | None = Field(
        None,
        ge=1,
        description="rounds after which one begins from the base instead of the live policy, with three times"
        " the steps; none: never",
    )
    min_votes: int = Field(40, ge=2, description="votes needed before the first round, votes")
    threads: int = Field(
        1,
        ge=1,
        description="torch threads; more than there are idle cores is slower than one, threads",
    )
    max_prompt_tokens: int | None = Field(
        None,
        ge=1,
        description="longest prompt that is trained on; none: what context and free memory allow, tokens",
    )
    seed: int = Field(0, ge=0, description="seed of every random draw of the trainer")
    rebuild_seconds: float = Field(
        600,
        ge=0,
        description="least time between two rebuilds for people who were erased; who asks meanwhile is taken"
        " out of the policies with the next one, seconds",
    )
    keep_policies: int = Field(
        20,
        ge=1,
        description="newest policies whose files are kept, beside those in use, pinned, and their parents",
    )
    reward: RewardSettings = RewardSettings()
    rl: RLSettings = RLSettings()
    gate: GateSettings = GateSettings()
    criteria: CriteriaSettings = CriteriaSettings()


class TrackingSettings(BaseModel):
    """Experiment trackers: where the figures of each round go beside its record."""

    model_config = ConfigDict(extra="forbid")

    tensorboard: bool = Field(True, description="write TensorBoard's files to `tensorboard` in data_dir")
    mlflow_url: str | None = Field(
        None, description="MLflow's tracking server, http://…:5000 (needs the extra `mlflow`); none: none"
    )
    wandb_project: str | None = Field(
        None,
        description="project at Weights & Biases (needs the extra `wandb`, and its key in WANDB_API_KEY);"
        " none: none",
    )


class ExportSettings(BaseModel):
    """The scheduled export: new votes go to a folder or an object store. Without a place there is none."""

    model_config = ConfigDict(extra="forbid")

    to: str | None = Field(
        None,
        description="where files of votes are written: a folder that all replicas share, or a URL such as"
        " s3://bucket/prefix",
    )
    every: float = Field(24, gt=0, description="time between two exports, hours")
    format: Literal["jsonl", "preference", "unpaired", "prompt-completion"] = Field(
        "jsonl", description="jsonl: everything; else one of TRL's layouts"
    )
    shape: Literal["text", "messages"] | None = Field(
        None, description="shape of the rows of TRL's layouts; none: as imported, else messages"
    )
    parquet: bool = Field(False, description="write Parquet instead of JSON Lines")


class RedactionSettings(BaseModel):
    """Redaction: personal data is replaced before anything is stored. It needs the extra `redaction`."""

    model_config = ConfigDict(extra="forbid")

    kinds: list[PersonalData] = Field(
        default_factory=list,
        description="what is replaced, in projects that set nothing themselves: email, phone, iban, card, ip,"
        " national_id; empty: nothing",
    )
    regions: list[Annotated[str, Field(pattern=r"^[A-Z]{2}$")]] = Field(
        ["US", "GB", "DE", "FR", "ES", "IT", "NL", "PL", "BR", "IN"],
        max_length=30,
        description="countries (ISO 3166) whose phone numbers are found without a country code",
    )


class SigningSettings(BaseModel):
    """The signature of each policy. `hearken up` makes a pair of keys by itself."""

    model_config = ConfigDict(extra="forbid")

    key_file: Path | None = Field(
        None,
        description="file of the Ed25519 key that signs policies, PEM; none: `signing/key.pem` in data_dir,"
        " if it is there",
    )
    trusted_file: Path | None = Field(
        None,
        description="file of the public keys whose policies may serve, PEM, one after another; none:"
        " `signing/trusted.pem` in data_dir, and without that signatures are not checked",
    )


class Settings(BaseSettings):
    """The whole configuration of one installation."""

    model_config = SettingsConfigDict(
        env_prefix="HEARKEN_", env_nested_delimiter="__", toml_file="hearken.toml", extra="forbid"
    )

    host: str = Field("127.0.0.1", description="address that the API listens on")
    port: int = Field(8000, ge=1, le=65_535, description="port that the API listens on")
    data_dir: Path = Field(
        Path(".hearken"), description="folder of the database, the policies and the records"
    )
    database_url: str | None = Field(None, description="URL of Postgres; none: an embedded one in data_dir")
    connections: int = Field(8, ge=2, description="database connections of one process, connections")
    statement_timeout: float = Field(30, gt=0, description="longest SQL statement of serving, seconds")
    retention_days: int | None = Field(
        None,
        ge=1,
        description="age at which a week of turns, with its votes, is deleted; none: never, days",
    )
    model: str = Field("starter", description="base model: `starter`, `smollm2`, a directory, or a hub id")
    admin_key: str | None = Field(None, description="admin key; none: a new random one")
    public_key: str | None = Field(None, description="publishable key; none: a new random one")
    project: str = Field("default", description="the installation's own project, and that of commands")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe log level that is written"
    )
    serving: ServingSettings = ServingSettings()
    kafka: KafkaSettings = KafkaSettings()
    engine: EngineSettings = EngineSettings()
    vllm: VllmSettings = VllmSettings()
    judge: JudgeSettings = JudgeSettings()
    export: ExportSettings = ExportSettings()
    policy_store: str | None = Field(
        None,
        description="object store of the policies beside data_dir's folder, which then is a cache, as in"
        " s3://bucket/prefix (needs the extra `s3`); none: the folder is shared",
    )
    redaction: RedactionSettings = RedactionSettings()
    signing: SigningSettings = SigningSettings()
    trainer: TrainerSettings = TrainerSettings()
    tracking: TrackingSettings = TrackingSettings()

    @property
    def policies_dir(self) -> Path:
        return self.data_dir / "policies"

    @property
    def rounds_dir(self) -> Path:
        return self.data_dir / "rounds"

    @property
    def samples_on_vllm(self) -> bool:
        """Whether the trainer samples on `vllm.urls`."""
        return (self.trainer.rl.sampler or ("vllm" if self.engine.kind == "vllm" else None)) == "vllm"

    @property
    def signing_dir(self) -> Path:
        """The folder of the keys that `hearken up` makes."""
        return self.data_dir / "signing"

    @property
    def signing_key_path(self) -> Path | None:
        own = self.signing_dir / "key.pem"
        return self.signing.key_file or (own if own.is_file() else None)

    @property
    def trusted_keys_path(self) -> Path | None:
        own = self.signing_dir / "trusted.pem"
        return self.signing.trusted_file or (own if own.is_file() else None)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, Environment(settings_cls), TomlFile(settings_cls)


def load(**flags: Any) -> Settings:
    """Returns the effective settings; flags that are None were not given."""
    return Settings(**{name: value for name, value in flags.items() if value is not None})
