"""What a round learns from, by name. With the votes and prompts that the names stand for, it is enough to do
the round again: after a crash, or to see that a policy is what its manifest says."""

import hashlib
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError


class Inputs(BaseModel):
    """`draw` seeds every random choice: the round's number, or that of the round it does again. `votes` had
    ever arrived; `events` are those that stood, oldest first; `turns` are those whose prompts it may
    practise on, newest first; `positions` tells how far each log was read. `knowledge_lost` is the share of
    the probes that the candidate before no longer knew, as the gate measured. `past` is the digest of the
    file of older votes (`past`) that it adds to these, if any. `attempts` counts how often it was begun."""

    model_config = ConfigDict(frozen=True)

    draw: int
    parent: str
    votes: int
    events: list[str]
    turns: list[str]
    positions: dict[str, str]
    knowledge_lost: float = 0.0
    past: str | None = None
    attempts: int = 1

    def generator(self, seed: int, purpose: str) -> torch.Generator:
        """Random numbers of one purpose: how many another took does not change them."""
        digest = hashlib.sha256(f"{seed} {self.draw} {purpose}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".draft")
        draft.write_text(self.model_dump_json(), encoding="utf-8")
        draft.replace(path)

    @classmethod
    def read(cls, path: Path) -> "Inputs | None":
        """None where there are none, whole."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
