"""This module measures forgetting: the accuracy of base and candidate on questions with known answers.

The starter has questions of its own, any other base its probes (`screening`), and an operator may add a file.
With fewer than `questions.MIN_QUESTIONS` nothing is judged, and the record says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import Any

import torch

from schemas.settings import GateSettings, TrainerSettings
from trainer.data.knowledge_probes import ProbeSet
from trainer.evaluation.answers import answer_accuracy, prompt_ids
from trainer.evaluation.questions import Question, own_questions, unjudged
from trainer.evaluation.screening import probe_spec
from trainer.model.adapter import GREETING
from trainer.model.backbone import Backbone
from trainer.model.rollouts import SamplingSpec, sample

GUARD_QUESTIONS = 96
"""Questions that the guard asks during training, one reply each; the gate asks all of them."""

SAMPLES_PER_QUESTION, BASE_SAMPLES_PER_QUESTION = 2, 3
"""Replies to each question that the gate samples from a candidate, and once from the base."""

ANSWER_TOKENS = 90
"""Longest answer, tokens, where no setting names the longest reply."""

SAMPLES_PER_PROBE, MAX_TIMES = 4, 4
"""Replies to each probe that are sampled from a candidate at a time, and how often at most: there are fewer
probes than questions."""

CERTAIN_ERRORS = 2.0
"""Standard errors between the loss and its limit beyond which the probes are not asked again."""

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
class KnowledgeAccuracy:
    """The share of correct replies to each question, of the base and of a candidate, and its topic."""

    base: Sequence[float]
    candidate: Sequence[float]
    topics: Sequence[str] = ()


def accuracy_drop(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """Returns the fall of the mean accuracy, paired by question, and its standard error."""
    drops = torch.tensor(before) - torch.tensor(after)
    return float(drops.mean()), float(drops.std(correction=min(1, len(drops) - 1)) / len(drops) ** 0.5)


def within_limit(drop: float, error: float, gate: GateSettings) -> bool:
    """Whether the drop plus one standard error is at most the gate's limit."""
    return drop + error <= gate.max_knowledge_loss


class KnowledgeEval:
    """The knowledge evaluation of one base model; the base's accuracy is measured once. `probes` are the
    base's; none for the starter."""

    def __init__(self, backbone: Backbone, settings: TrainerSettings, probes: ProbeSet | None = None) -> None:
        self.backbone = backbone
        self._settings = settings
        self._tokens = settings.rl.max_tokens or ANSWER_TOKENS
        self.probe_set = probes
        self._own = own_questions(backbone.directory, settings.gate, settings.seed)
        room = settings.gate.knowledge_questions - len(self._own)
        self._probes = probes.probes[:room] if probes else ()
        self._asked = [Question(each.prompt, each.accept, each.topic, each.whole) for each in self._probes]
        self._base: list[float] = []
        self.unjudged = unjudged(len(self._own) + len(self._asked))
        self.facts: dict[str, Any] = {"own": len(self._own), "probes": len(self._probes)}
        if probes:
            self.facts |= {
                topic: f"{count} of {probes.asked[topic]}" for topic, count in probes.topics.items()
            }
        if self.unjudged:
            self.facts["notice"] = self.unjudged

    @property
    def topics(self) -> list[str]:
        """The topic of each question."""
        return [each.topic for each in [*self._own, *self._asked]]

    def base_accuracy(self) -> list[float]:
        """Returns the base's accuracy on each question; the seed is fixed, so it is always the same."""
        if not self._base:
            generator = torch.Generator().manual_seed(self._settings.seed)
            with self.backbone.reference():
                spec = SamplingSpec(BASE_SAMPLES_PER_QUESTION, self._tokens)
                own = answer_accuracy(self.backbone, self._own, spec, generator)
            self._base = [*own, *(probe.base for probe in self._probes)]
        return self._base

    def adapter_accuracy(self, generator: torch.Generator) -> list[float]:
        """Returns the current adapter's accuracy on each question. The probes are asked again while chance
        may hide on which side of the limit the loss is."""
        spec = SamplingSpec(SAMPLES_PER_QUESTION, self._tokens)
        own = answer_accuracy(self.backbone, self._own, spec, generator)
        asked: list[list[float]] = []
        while True:
            asked.append(self._probe_accuracy(self._asked, SAMPLES_PER_PROBE, generator))
            found = own + [fmean(each) for each in zip(*asked, strict=True)]
            if not self._asked or len(asked) == MAX_TIMES or self._is_certain(found):
                return found

    def _is_certain(self, accuracy: Sequence[float]) -> bool:
        """Whether the loss is beyond or within the gate's limit by CERTAIN_ERRORS."""
        drop, error = accuracy_drop(self.base_accuracy(), accuracy)
        return abs(drop - self._settings.gate.max_knowledge_loss) > CERTAIN_ERRORS * error

    def passes(self, generator: torch.Generator) -> bool:
        """Whether the current adapter passes the gate's knowledge check, or cannot be judged by it."""
        if self.unjudged:
            return True
        drop, error = accuracy_drop(self.base_accuracy(), self.adapter_accuracy(generator))
        return within_limit(drop, error, self._settings.gate)

    def guard_failure(self, generator: torch.Generator) -> str | None:
        """Returns why the guard stops training: the accuracy of the current adapter fell by more than the
        gate's limit plus two standard errors. None if it did not, or cannot be judged."""
        if self.unjudged:
            return None
        own = self._own[:GUARD_QUESTIONS]
        probes = self._asked[: GUARD_QUESTIONS - len(own)]
        after = answer_accuracy(self.backbone, own, SamplingSpec(1, self._tokens), generator)
        after += self._probe_accuracy(probes, 1, generator)
        before = self.base_accuracy()
        before = before[: len(own)] + before[len(self._own) :][: len(probes)]
        drop, error = accuracy_drop(before, after)
        if drop - 2 * error <= self._settings.gate.max_knowledge_loss:
            return None
        return f"accuracy on {len(after)} knowledge questions fell by {drop:.1%} ± {error:.1%}"

    def samples(self, generator: torch.Generator) -> list[tuple[str, str]]:
        """Returns (prompt, reply) pairs of the current adapter: to the first questions of the starter or of
        the operator, or to SAMPLE_PROMPTS when there are none."""
        prompts = [question.prompt for question in self._own[:SHOWN_SAMPLES]] or list(SAMPLE_PROMPTS)
        prompts_T = [prompt_ids(self.backbone, prompt, self._tokens) for prompt in prompts]
        spec = SamplingSpec(1, self._tokens, logprobs=False)
        replies = sample(self.backbone, prompts_T, spec, generator)
        texts = [self.backbone.decode(reply.token_ids).replace("\0", "�") for reply in replies]
        return [(prompts[reply.prompt], text) for reply, text in zip(replies, texts, strict=True)]

    def _probe_accuracy(
        self, questions: Sequence[Question], replies: int, generator: torch.Generator
    ) -> list[float]:
        if not questions:
            return []
        spec = replace(self._probe_spec, samples_per_prompt=replies)
        return answer_accuracy(self.backbone, questions, spec, generator)

    @cached_property
    def _probe_spec(self) -> SamplingSpec:
        return probe_spec(self.backbone)
