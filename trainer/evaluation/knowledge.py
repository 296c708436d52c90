"""This module measures forgetting: the accuracy of base and candidate on questions with known answers.

The starter model has its own questions. Operators supply theirs as a file of JSON lines `{"prompt",
"accept"}`; a reply is correct when it contains one of the accepted answers as a whole word. Without
questions, nothing is measured, and the record says so.
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
from trainer.model.rollouts import SamplingSpec, sample
from trainer.starter import MODEL_DIR

GUARD_QUESTIONS = 96
"""Questions that the guard asks during training, one reply each; the gate asks all of them."""

SAMPLES_PER_QUESTION, BASE_SAMPLES_PER_QUESTION = 2, 3
"""Replies to each question that the gate samples from a candidate, and once from the base."""

SHOWN_SAMPLES = 6
"""Questions whose replies before and after training a round's record shows."""

SAMPLE_PROMPTS = (
    GREETING,
    "Explain in a few words why the sky is blue.",
    "I slept badly. What can I do about it?",
    "Write two sentences that thank a friend for a gift.",
)
"""Prompts whose replies a record shows when there are no questions."""


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt and its accepted answers."""

    prompt: str
    accept: tuple[str, ...]

    def is_correct(self, reply: str) -> bool:
        return any(
            re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", reply, re.IGNORECASE) for answer in self.accept
        )


@dataclass(frozen=True, slots=True)
class KnowledgeAccuracy:
    """The share of correct replies to each question, of the base and of a candidate."""

    base: Sequence[float]
    candidate: Sequence[float]


def load_questions(model: Path, gate: GateSettings, seed: int) -> list[Question]:
    """Returns up to `gate.knowledge_questions` questions: the operator's, else the starter's own if `model`
    is the starter, else none."""
    if gate.knowledge_file is not None:
        lines = [
            json.loads(line) for line in gate.knowledge_file.read_text(encoding="utf-8").splitlines() if line
        ]
        return [Question(line["prompt"], tuple(line["accept"])) for line in lines][: gate.knowledge_questions]
    if model.resolve() == MODEL_DIR.resolve():
        from trainer.starter.world import factual_prompts

        return [
            Question(each.prompt, each.accept or ())
            for each in factual_prompts(gate.knowledge_questions, seed)
        ]
    return []


def answer_accuracy(
    backbone: Backbone,
    questions: Sequence[Question],
    spec: SamplingSpec,
    generator: torch.Generator,
) -> list[float]:
    """Returns, for each question, the share of correct replies among those sampled."""
    samples = spec.samples_per_prompt
    prompts = [_prompt_ids(backbone, question.prompt, spec.max_tokens) for question in questions]
    replies = sample(backbone, prompts, spec, generator)
    correct = [questions[reply.prompt].is_correct(backbone.decode(reply.token_ids)) for reply in replies]
    return [sum(correct[start : start + samples]) / samples for start in range(0, len(correct), samples)]


def accuracy_drop(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """Returns the fall of the mean accuracy, paired by question, and its standard error."""
    drops = torch.tensor(before) - torch.tensor(after)
    return float(drops.mean()), float(drops.std(correction=min(1, len(drops) - 1)) / len(drops) ** 0.5)


def within_limit(drop: float, error: float, gate: GateSettings) -> bool:
    """Whether the drop plus one standard error is at most the gate's limit."""
    return drop + error <= gate.max_knowledge_loss


class KnowledgeEval:
    """The knowledge evaluation of one base model; the base's accuracy is measured once."""

    def __init__(self, backbone: Backbone, settings: TrainerSettings) -> None:
        self.backbone = backbone
        self._settings = settings
        self._tokens = settings.rl.max_tokens
        self._questions = load_questions(backbone.directory, settings.gate, settings.seed)
        self._base: list[float] = []

    def base_accuracy(self) -> list[float]:
        """Returns the base's accuracy on each question; the seed is fixed, so it is always the same."""
        if not self._base:
            generator = torch.Generator().manual_seed(self._settings.seed)
            with self.backbone.reference():
                spec = SamplingSpec(BASE_SAMPLES_PER_QUESTION, self._tokens)
                self._base = answer_accuracy(self.backbone, self._questions, spec, generator)
        return self._base

    def adapter_accuracy(self, generator: torch.Generator) -> list[float]:
        """Returns the current adapter's accuracy on each question."""
        with self.backbone.merged():
            spec = SamplingSpec(SAMPLES_PER_QUESTION, self._tokens)
            return answer_accuracy(self.backbone, self._questions, spec, generator)

    def passes(self, generator: torch.Generator) -> bool:
        """Whether the current adapter passes the gate's knowledge check."""
        if not self._questions:
            return True
        drop, error = accuracy_drop(self.base_accuracy(), self.adapter_accuracy(generator))
        return within_limit(drop, error, self._settings.gate)

    def guard_failure(self, generator: torch.Generator) -> str | None:
        """Returns why the guard stops training: the accuracy of the current adapter fell by more than the
        gate's limit plus two standard errors. None if it did not."""
        questions = self._questions[:GUARD_QUESTIONS]
        if not questions:
            return None
        with self.backbone.merged():
            after = answer_accuracy(self.backbone, questions, SamplingSpec(1, self._tokens), generator)
        drop, error = accuracy_drop(self.base_accuracy()[: len(questions)], after)
        if drop - 2 * error <= self._settings.gate.max_knowledge_loss:
            return None
        return f"accuracy on {len(questions)} knowledge questions fell by {drop:.1%} ± {error:.1%}"

    def samples(self, generator: torch.Generator) -> list[tuple[str, str]]:
        """Returns (prompt, reply) pairs of the current adapter: to the first questions, or to SAMPLE_PROMPTS
        when there are none."""
        prompts = [question.prompt for question in self._questions[:SHOWN_SAMPLES]] or list(SAMPLE_PROMPTS)
        prompt_ids = [_prompt_ids(self.backbone, prompt, self._tokens) for prompt in prompts]
        with self.backbone.merged():
            replies = sample(self.backbone, prompt_ids, SamplingSpec(1, self._tokens), generator)
        texts = [self.backbone.decode(reply.token_ids).replace("\0", "�") for reply in replies]
        return [(prompts[reply.prompt], text) for reply, text in zip(replies, texts, strict=True)]


def _prompt_ids(backbone: Backbone, prompt: str, max_tokens: int) -> list[int]:
    return backbone.truncate_prompt(backbone.render([{"role": "user", "content": prompt}]), max_tokens)
