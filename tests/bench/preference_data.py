"""This module reads preference pairs that people made, for benches that are given them by path."""

import gzip
import json
import re
from dataclasses import dataclass
from pathlib import Path

from deploy.simulation.prompt_text import normalised
from trainer.model.tokenizer import Messages

HARMLESS, LLMBAR = "hh-harmless-pairs.jsonl.gz", "llmbar-adversarial-neighbor.json"
"""Names of the files: a part of anthropics/hh-rlhf, and of princeton-nlp/LLMBar (both MIT)."""

_TURN = re.compile(r"\n\n(Human|Assistant):")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two replies to a prompt, of which people preferred one."""

    messages: Messages
    better: str
    worse: str

    @property
    def prompt(self) -> str:
        """The normalised text of the whole prompt."""
        return normalised(" ".join(str(message["content"]) for message in self.messages))

    def characters(self) -> int:
        """Returns the length of both dialogues together."""
        prompt = sum(len(str(message["content"])) for message in self.messages)
        return 2 * prompt + len(self.better) + len(self.worse)


def harmless_pairs(directory: Path) -> list[Pair]:
    """Reads hh-rlhf's pairs. Dialogues that do not end with a reply of both sides to one prompt are left
    out."""
    pairs = []
    with gzip.open(directory / HARMLESS, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            chosen, rejected = _dialogue(row["chosen"]), _dialogue(row["rejected"])
            pair = Pair(chosen[:-1], str(chosen[-1]["content"]), str(rejected[-1]["content"]))
            ends_alike = chosen[-1]["role"] == rejected[-1]["role"] == "assistant"
            if ends_alike and chosen[:-1] == rejected[:-1] and pair.messages and pair.better and pair.worse:
                pairs.append(pair)
    return pairs


def llmbar_pairs(directory: Path) -> list[Pair]:
    """Reads LLMBar's adversarial pairs, whose worse reply looks better."""
    rows = json.loads((directory / LLMBAR).read_text(encoding="utf-8"))
    return [
        Pair(
            [{"role": "user", "content": row["input"]}],
            row[f"output_{row['label']}"],
            row[f"output_{3 - row['label']}"],
        )
        for row in rows
    ]


def _dialogue(text: str) -> Messages:
    _, *parts = _TURN.split(text)
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": roles[who], "content": said.strip()} for who, said in turns]
