"""What a project sets for its chats: its system prompt, defaults of sampling, and how a policy goes live."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

ProjectId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,47}\z")]
"""Its id is part of file names and of adapters' names on the engines."""

MOST_PROJECTS = 1_000
"""Projects that are listed, or whose metrics are exported, at once."""

Promotion = Literal["direct", "canary", "duel", "manual"]
"""How a candidate goes live, as `serving.promotion` says for projects that choose nothing."""


PersonalData = Literal["email", "phone", "iban", "card", "ip", "national_id"]
"""What may be redacted before anything is stored."""


class SamplingDefaults(BaseModel):
    """Sampling parameters of requests that name none; the base's own defaults are behind them."""

    model_config = ConfigDict(extra="forbid", strict=True)

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None


class ProjectChange(BaseModel):
    """What may be changed of a project. A field that is left out stays; null, or an empty one, takes it
    away."""

    model_config = ConfigDict(extra="forbid", strict=True)

    system_prompt: Annotated[str, Field(min_length=1, max_length=20_000)] | None = None
    sampling: SamplingDefaults = SamplingDefaults()
    promotion: Promotion | None = None
    public_cards: bool = False
    redaction: Annotated[list[PersonalData], Field(max_length=10)] | None = None
    retention_days: Annotated[int, Field(ge=1, le=36_500)] | None = None


class NewProject(ProjectChange):
    id: ProjectId
