"""Settings of what happens to votes and turns on their way: broker, judge, export, redaction."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from schemas.projects import PersonalData


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


class JudgeSettings(BaseModel):
    """The judge: an automated rater of `project`, behind an OpenAI-compatible endpoint. Without a URL there
    is none."""

    model_config = ConfigDict(extra="forbid")

    url: str | None = Field(
        None,
        description="URL of the endpoint, up to /v1; judged conversations, comments, and replies that the"
        " gate sampled are sent there",
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
        600, gt=0, le=1_000_000_000, description="age after which a turn is no longer judged, seconds"
    )
    timeout: float = Field(30, gt=0, description="longest wait for a verdict, seconds")


class ExportSettings(BaseModel):
    """The scheduled export: new votes of `project` go to a folder or an object store. Without a place there
    is none."""

    model_config = ConfigDict(extra="forbid")

    to: str | None = Field(
        None,
        description="where files of votes are written: a folder that all replicas share, or a URL such as"
        " s3://bucket/prefix",
    )
    every: float = Field(24, gt=0, le=1_000_000, description="time between two exports, hours")
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
