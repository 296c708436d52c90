"""This module defines the inputs of a round, by name. With the votes and prompts that the names stand for,
they determine the round: after a crash, or to reproduce a policy from its manifest."""

import hashlib
from pathlib import Path

import torch
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from schemas.files import private_folder
from schemas.projects import Objective
from schemas.settings import RLSettings
from trainer.data.hyperparameters import Hyperparameters
from trainer.data.knowledge_probes import ProbeSet
from trainer.model.token_budget import TokenBudget

_OF_OLDER_RELEASES = {
    "learning_rate": 2e-3,
    "steps_per_round": 8,
    "prompts_per_step": 32,
    "max_tokens": 90,
}


class RoundInputs(BaseModel):
    """The inputs of a round, in JSON.

    `draw` seeds every random choice; it is the round's number, or the number of the round that it repeats.
    `fold` is the fold of the votes that is held out, modulo their number; None where it is that of `draw`, as
    in older releases.
    `votes` counts the votes that had arrived; `events` are the active ones, oldest first; `turns` are the
    turns whose prompts the round uses, newest first; `positions` is the offset in each log. `knowledge_lost`
    is the share of questions that the previous candidate no longer knew, as the gate measured. `vote_summary`
    is the digest of the file that names the files of older votes, and was called `past`. `token_budget`
    bounds the batches, and `prompts_too_long` counts the turns whose prompts it left out. `rl` are the
    hyperparameters; a round of an older release has none. `objective` is what the project itself says that
    its policies learn. `probes` are the base's; the starter has none. `mentions` has by event
    what votes say about criteria: whether the reply meets each. `restart` tells that the round starts from
    the base as one of `restart_rounds`. `cautions` has the levels of the constraints that blocked the last
    candidates (`cautions`). `demonstrations` are the turns whose replies it learns from first, and
    `demonstrated` tells that the parent or an ancestor has learned from some. `trusted` are the events by
    raters whom an operator accepted, who are in no cluster. `lora_tokens` are the tokens that there is time
    for in fitting the reward model's heads (`lora_heads_fit`). `attempts` counts the starts of the round."""

    model_config = ConfigDict(frozen=True)

    draw: int
    fold: int | None = None
    parent: str
    votes: int
    events: list[str]
    turns: list[str]
    positions: dict[str, str]
    knowledge_lost: float = 0.0
    vote_summary: str | None = Field(None, validation_alias=AliasChoices("vote_summary", "past"))
    token_budget: TokenBudget = TokenBudget()
    prompts_too_long: int = 0
    rl: Hyperparameters | None = None
    objective: Objective = Objective()
    probes: ProbeSet | None = None
    mentions: dict[str, dict[str, bool]] = {}
    restart: bool = False
    cautions: dict[str, int] = {}
    demonstrations: list[str] = []
    demonstrated: bool = False
    trusted: list[str] = []
    lora_tokens: int = 0
    attempts: int = 1

    def hyperparameters(self, settings: RLSettings) -> Hyperparameters:
        """Returns the hyperparameters; of a round of an older release those of its settings."""
        return self.rl or Hyperparameters(
            **_OF_OLDER_RELEASES | {name: value for name, value in settings if value is not None}
        )

    def generator(self, seed: int, purpose: str) -> torch.Generator:
        """Returns the random generator of one purpose, independent of the use of all others."""
        digest = hashlib.sha256(f"{seed} {self.draw} {purpose}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)

    def write(self, path: Path) -> None:
        """Writes the file atomically."""
        private_folder(path.parent)
        draft = path.with_suffix(".draft")
        draft.write_text(self.model_dump_json(), encoding="utf-8")
        draft.replace(path)

    @classmethod
    def read(cls, path: Path) -> "RoundInputs | None":
        """Reads the file; returns None where it is missing or incomplete."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
