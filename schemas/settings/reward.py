"""Settings of the reward model, and of the criteria beside it."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.projects import CriteriaWeights, TasteMixture
from schemas.settings.renamed_fields import RenamedFields


class RewardSettings(RenamedFields):
    """The reward model."""

    section = "trainer.reward"
    renamed: ClassVar = {"caution": "uncertainty_penalty", "judges_share": "judge_weight_cap"}
    newer: ClassVar = {"auxiliary_model", "groups", "kind", "newcomer_weight"}

    kind: Literal["probe", "auto"] = Field(
        "probe",
        description="`probe`: linear members on features of the frozen base; `auto`: where votes are many,"
        " also heads on a LoRA of the base, as far as they explain held-out votes better",
    )
    auxiliary_model: Path | None = Field(
        None,
        description="directory of a second frozen model, such as an embedding or preference model, whose"
        " hidden states of the replies are features beside the base's; it takes time and memory of its own",
    )
    members: int = Field(
        5, ge=2, description="members of the ensemble, each with its own bootstrap weights on the votes"
    )
    uncertainty_penalty: float = Field(
        0.3, ge=0, description="κ: the reward is the ensemble's mean minus κ times its standard deviation"
    )
    half_life_days: float = Field(
        60,
        gt=0,
        le=1_000_000,
        description="age against the newest vote at which a vote's weight halves, days",
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
    groups: TasteMixture = Field(
        "mean",
        description="what the policy learns where people's tastes differ: `mean`: what they like on average;"
        " `least_satisfied`: as much what pleases the group that it pleases least",
    )


class CriteriaSettings(BaseModel):
    """Criteria: what people say about why a reply is good or bad. The known ones are helpful, correct, safe,
    tone and length; others are the project's own reasons, by their name."""

    model_config = ConfigDict(extra="forbid")

    weights: CriteriaWeights = Field(
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
