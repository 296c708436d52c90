"""Whether the model still knows what it knew: questions with known answers, for base and candidate.

The starter brings its own probes; operators bring theirs as a file of JSON lines `{"prompt", "accept"}`,
where a reply is right when it holds one of the accepted answers as a whole word. Without any, nothing is
measured, and the record says so.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from schemas.settings import GateSettings
from trainer.backbone import Backbone
from trainer.rollouts import sample
from trainer.starter import MODEL_DIR


@dataclass(frozen=True, slots=True)
class Probe:
    prompt: str
    accept: tuple[str, ...]

    def right(self, reply: str) -> bool:
        return any(
            re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", reply, re.IGNORECASE) for answer in self.accept
        )


def load(model: Path, gate: GateSettings, seed: int) -> list[Probe]:
    """`gate.probes` probes of the operator's file, else the starter's own when it is the base, else none."""
    if gate.probe_file is not None:
        lines = [
            json.loads(line) for line in gate.probe_file.read_text(encoding="utf-8").splitlines() if line
        ]
        return [Probe(line["prompt"], tuple(line["accept"])) for line in lines][: gate.probes]
    if model.resolve() == MODEL_DIR.resolve():
        from trainer.starter.world import probes

        return [Probe(probe.prompt, probe.accept or ()) for probe in probes(gate.probes, seed)]
    return []


def ask(
    backbone: Backbone, probes: Sequence[Probe], times: int, max_tokens: int, generator: torch.Generator
) -> list[float]:
    """For each probe, the share of `times` replies at temperature 1, as people get them, that were right."""
    prompts = [backbone.render([{"role": "user", "content": probe.prompt}]) for probe in probes]
    replies = sample(backbone, prompts, times, max_tokens, generator)
    right = [probes[reply.prompt].right(backbone.decode(reply.token_ids)) for reply in replies]
    return [sum(right[start : start + times]) / times for start in range(0, len(right), times)]


def loss(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """By how much the share of right replies fell, and the standard error of that, probe by probe."""
    falls = torch.tensor(before) - torch.tensor(after)
    return float(falls.mean()), float(falls.std() / len(falls) ** 0.5)
