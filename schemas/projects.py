"""What a project sets: its system prompt and sampling, what its policies learn, and how they go live."""

import re
from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from schemas.criteria import REASONS

ProjectId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,47}\z")]
"""Its id is part of file names and of adapters' names on the engines."""

MOST_PROJECTS = 1_000
"""Projects that are listed, or whose metrics are exported, at once."""

Promotion = Literal["direct", "canary", "duel", "manual"]
"""How a candidate goes live, as `serving.promotion` says for projects that choose nothing."""

TasteMixture = Literal["mean", "least_satisfied"]
"""What is learned where people's tastes differ, as `trainer.reward.groups` says for projects that choose
nothing."""

CriteriaWeights = dict[str, Annotated[float, Field(ge=-10, le=10)]]
"""What each criterion adds to the reward, in standard deviations of the reward."""

TaintedPolicy = Literal["keep", "replace"]
"""What answers while a live policy that learned from an erased person is rebuilt, as `serving.tainted_policy`
says for projects that choose nothing."""

MOST_CRITERIA = 20
"""Criteria that a project names at once: the known ones and those of its own are fewer."""

_CRITERION = re.compile(r"[a-z0-9-]{1,32}")

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


class Objective(BaseModel):
    """What a project's policies learn from votes; the settings say what it leaves out: `groups` of
    `trainer.reward`, and weights, constraints and their largest fall of `trainer.criteria`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    groups: TasteMixture | None = None
    criteria_weights: Annotated[CriteriaWeights, Field(max_length=MOST_CRITERIA)] | None = None
    may_not_fall: Annotated[list[str], Field(max_length=MOST_CRITERIA)] | None = None
    max_fall: Annotated[float, Field(ge=0, lt=1)] | None = None

    @property
    def criteria(self) -> set[str]:
        """The criteria that are named."""
        return {*(self.criteria_weights or ()), *(self.may_not_fall or ())}


class Learning(Objective):
    """What a project sets for its learning: the objective, and what answers while a policy unlearns an erased
    person."""

    tainted_policy: TaintedPolicy | None = None

    @field_validator("criteria_weights", "may_not_fall")
    @classmethod
    def _name_criteria(cls, names: Collection[str] | None) -> Collection[str] | None:
        """Raises ValueError for a name that no criterion can have."""
        for name in names or ():
            if not _CRITERION.fullmatch(name):
                raise ValueError(f"{name[:64]!r} is no criterion: 1 to 32 letters a to z, digits and dashes")
            criterion, _ = REASONS.get(name, (name, None))
            if criterion != name:
                raise ValueError(f"{name!r} is a reason of the criterion {criterion!r}: name that")
        return names


class ProjectChange(BaseModel):
    """What may be changed of a project. A field that is left out stays; null, or an empty one, takes it
    away."""

    model_config = ConfigDict(extra="forbid", strict=True)

    system_prompt: Annotated[str, Field(min_length=1, max_length=20_000)] | None = None
    sampling: SamplingDefaults = SamplingDefaults()
    promotion: Promotion | None = None
    learning: Learning = Learning()
    public_cards: bool = False
    redaction: Annotated[list[PersonalData], Field(max_length=10)] | None = None
    retention_days: Annotated[int, Field(ge=1, le=36_500)] | None = None


class NewProject(ProjectChange):
    id: ProjectId
