"""Knowledge probes are questions that a base answers alike, measured once per base and kept in a file.

`trainer.evaluation.screening` measures them. They are inputs of every round, so all processes of a group, a
round that begins again and a reproduced one have the same.
"""

import os
from collections import Counter
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError


class KnowledgeProbe(BaseModel):
    """A question (`trainer.evaluation.questions`), and the share of the base's replies that are correct, in a
    sample that did not select it."""

    model_config = ConfigDict(frozen=True)

    prompt: str
    accept: tuple[str, ...]
    topic: str
    whole: bool
    base: float


class ProbeSet(BaseModel):
    """The probes of one base. `key` is a digest of what they follow from: the base, the questions and how
    replies are sampled. `asked` counts the questions asked by topic."""

    model_config = ConfigDict(frozen=True)

    key: str
    asked: dict[str, int]
    probes: tuple[KnowledgeProbe, ...]

    @property
    def topics(self) -> dict[str, int]:
        """The number of probes by topic."""
        found = Counter(probe.topic for probe in self.probes)
        return {topic: found[topic] for topic in self.asked}

    def write(self, path: Path) -> None:
        """Writes the file atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".draft-{os.getpid()}")
        draft.write_text(self.model_dump_json(indent=1), encoding="utf-8")
        draft.replace(path)

    @classmethod
    def parse(cls, content: bytes) -> "ProbeSet | None":
        """Returns the probes in a file's content; None where it is empty or damaged."""
        try:
            return cls.model_validate_json(content)
        except ValidationError:
            return None


def probe_file(data_dir: Path, base_digest: str) -> Path:
    """Returns the path of a base's probes, which may not be measured yet."""
    return data_dir / "knowledge" / f"{base_digest[:16]}.json"
