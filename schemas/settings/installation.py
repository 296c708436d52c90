"""The settings of one installation, all sections together, and where their values are read from."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from schemas.settings.engines import EngineSettings, VllmSettings
from schemas.settings.feedback import ExportSettings, JudgeSettings, KafkaSettings, RedactionSettings
from schemas.settings.readers import Environment, TomlFile
from schemas.settings.serving import ServingSettings
from schemas.settings.trainer import TrackingSettings, TrainerSettings


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
    statement_timeout: float = Field(
        30, gt=0, le=2_147_483, description="longest SQL statement of serving, seconds"
    )
    retention_days: int | None = Field(
        None,
        ge=1,
        le=36_500,
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
