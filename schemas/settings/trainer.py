"""Settings of the trainer: when it runs a round, and where the figures of rounds go."""

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field

from schemas.projects import Objective
from schemas.settings.gate import GateSettings
from schemas.settings.reward import CriteriaSettings, RewardSettings
from schemas.settings.rl import RLSettings

S = TypeVar("S", bound=BaseModel)


class TrainerSettings(BaseModel):
    """The trainer: when it runs a round, and how."""

    model_config = ConfigDict(extra="forbid")

    all_projects: bool = Field(
        True, description="train all projects of the database, one after another; false: only `project`"
    )
    round_votes: int = Field(25, ge=1, description="new votes that start a round at once, votes")
    round_seconds: float = Field(
        45,
        gt=0,
        description="time from the start of a round after which fewer new votes start the next, or twice what"
        " the round took where that is longer, seconds",
    )
    max_round_seconds: float = Field(
        420,
        gt=0,
        description="aim for the time of a round: the prompts of a step follow from it, at least 4, seconds",
    )
    restart_rounds: int | None = Field(
        None,
        ge=1,
        description="of so many rounds one begins from the base instead of the live policy, with three times"
        " the steps; none: never, rounds",
    )
    min_votes: int = Field(40, ge=2, description="votes needed before the first round, votes")
    threads: int | None = Field(
        None,
        ge=1,
        description="torch threads; none: without a GPU one for each core that the process may use, and"
        " one in all for a base with hidden states below 512, threads",
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
        description="newest policies whose files are kept, and as many refused candidates, beside those in"
        " use, pinned, and their parents",
    )
    reward: RewardSettings = RewardSettings()
    rl: RLSettings = RLSettings()
    gate: GateSettings = GateSettings()
    criteria: CriteriaSettings = CriteriaSettings()

    def with_objective(self, own: Objective) -> "TrainerSettings":
        """Returns the settings with what a project sets itself."""
        reward = _with(self.reward, groups=own.groups)
        criteria = _with(
            self.criteria,
            weights=own.criteria_weights,
            may_not_fall=own.may_not_fall,
            max_fall=own.max_fall,
        )
        return _with(self, reward=reward, criteria=criteria)


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


def _with(section: S, **own: object) -> S:
    """Returns the section with the values that are given."""
    return section.model_copy(update={name: value for name, value in own.items() if value is not None})
