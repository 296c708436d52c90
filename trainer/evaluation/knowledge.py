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

from schemas.settings import GateSettings, TrainerSettings
from trainer.model.adapter import GREETING
from trainer.model.backbone import Backbone
from trainer.model.rollouts import sample
from trainer.starter import MODEL_DIR

GUARD_PROBES = 96
"""Probes asked while training, once each; the gate asks them all."""

ASKED, BASE_ASKED = 2, 3
"""How often the gate asks a candidate and, once and for all, the base each probe."""


SAMPLES = 6
"""Probes whose replies are shown, before and after."""

REQUESTS = (
    GREETING,
    "Explain in a few words why the sky is blue.",
    "I slept badly. What can I do about it?",
    "Write two sentences that thank a friend for a gift.",
)
"""Whose replies are shown where there are no probes."""


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
    prompts = [_asked(backbone, probe.prompt, max_tokens) for probe in probes]
    replies = sample(backbone, prompts, times, max_tokens, generator)
    right = [probes[reply.prompt].right(backbone.decode(reply.token_ids)) for reply in replies]
    return [sum(right[start : start + times]) / times for start in range(0, len(right), times)]


def _asked(backbone: Backbone, prompt: str, max_tokens: int) -> list[int]:
    return backbone.with_room(backbone.render([{"role": "user", "content": prompt}]), max_tokens)


class Exam:
    """A base model's probes, and how well it answers them itself."""

    def __init__(self, backbone: Backbone, settings: TrainerSettings) -> None:
        self.backbone = backbone
        self._settings = settings
        self._tokens = settings.rl.max_tokens
        self._probes = load(backbone.directory, settings.gate, settings.seed)
        self._base: list[float] = []

    def of_base(self) -> list[float]:
        """Asked once and for all, and always the same."""
        if not self._base:
            generator = torch.Generator().manual_seed(self._settings.seed)
            with self.backbone.reference():
                self._base = ask(self.backbone, self._probes, BASE_ASKED, self._tokens, generator)
        return self._base

    def of_adapter(self, generator: torch.Generator) -> list[float]:
        """By the backbone's adapter as it is now."""
        with self.backbone.merged():
            return ask(self.backbone, self._probes, ASKED, self._tokens, generator)

    def passes(self, generator: torch.Generator) -> bool:
        """Whether the adapter as it is now knows enough for the gate."""
        if not self._probes:
            return True
        return enough(*loss(self.of_base(), self.of_adapter(generator)), self._settings.gate)

    def samples(self, generator: torch.Generator) -> list[tuple[str, str]]:
        """(prompt, reply) of the adapter as it is now: to some of the probes, or to REQUESTS without any."""
        asked = [probe.prompt for probe in self._probes[:SAMPLES]] or list(REQUESTS)
        prompts = [_asked(self.backbone, prompt, self._tokens) for prompt in asked]
        with self.backbone.merged():
            replies = sample(self.backbone, prompts, 1, self._tokens, generator)
        texts = [self.backbone.decode(reply.token_ids).replace("\0", "�") for reply in replies]
        return [(asked[reply.prompt], text) for reply, text in zip(replies, texts, strict=True)]

    def lost(self, generator: torch.Generator) -> str | None:
        """What the guard says: that more knowledge was lost than the gate allows and chance explains."""
        probes = self._probes[:GUARD_PROBES]
        if not probes:
            return None
        with self.backbone.merged():
            knows = ask(self.backbone, probes, 1, self._tokens, generator)
        lost, error = loss(self.of_base()[: len(probes)], knows)
        if lost - 2 * error <= self._settings.gate.knowledge_loss:
            return None
        return f"{lost:.1%} ± {error:.1%} of {len(probes)} probes are known no more"


def loss(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """By how much the share of right replies fell, and the standard error of that, probe by probe."""
    falls = torch.tensor(before) - torch.tensor(after)
    return float(falls.mean()), float(falls.std(correction=min(1, len(falls) - 1)) / len(falls) ** 0.5)


def enough(lost: float, error: float, gate: GateSettings) -> bool:
    """Whether it is likely (by a standard error) that no more was lost than may be."""
    return lost + error <= gate.knowledge_loss
