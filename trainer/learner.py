"""What each of a trainer's processes does in a round, in step with the others: all that the model is for.

The first is the trainer: it alone reads votes and publishes, and it tells the others what it read. They
follow it through the round with the same seeds, and so to the same adapter.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

from schemas.errors import HearkenError
from schemas.policies import Probe, file_digest
from schemas.settings import Settings
from trainer.data.examples import Corpus, Example, Key, Reply
from trainer.data.round_inputs import Inputs
from trainer.data.vote_summary import Past, made_for
from trainer.evaluation import gate
from trainer.evaluation.gate import Answers
from trainer.evaluation.knowledge import Exam
from trainer.model.adapter import probe
from trainer.model.backbone import Backbone
from trainer.model.distributed import ALONE, Processes
from trainer.model.rollouts import Sampler, gathered, in_process
from trainer.model.vllm_rollouts import VllmSampler
from trainer.records.attribution import Said
from trainer.records.publish import PAST
from trainer.rl.optimize import Step
from trainer.round import Learned, Round, Seen


class OutOfStep(HearkenError):
    """A round failed in this process, and the others wait for it in the middle of theirs."""


class Task(BaseModel):
    """A round as the others are told of it: what was read for it, and the directories of its parent and of
    the live policy. What is left of older votes they read themselves."""

    model_config = ConfigDict(frozen=True)

    parent: Path
    live: Path
    inputs: Inputs
    examples: list[Example]
    replies: list[tuple[Key, Reply]]
    prompts: dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of a round: answers to the prompts held out and some samples, of the live policy and of the
    candidate, which is the adapter now; `knows` is how well candidate and base answer each probe."""

    live: Answers
    before: Said
    learned: Learned
    knows: tuple[list[float], list[float]]
    candidate: Answers
    after: Said
    probe: Probe


class Learner:
    """One process's model, with what it keeps between rounds: what the base makes of the replies that votes
    are about, and what it knows."""

    def __init__(self, settings: Settings, processes: Processes = ALONE) -> None:
        torch.set_num_threads(settings.trainer.threads)
        self.settings = settings
        self.processes = processes
        self.backbone = Backbone(Path(settings.model), settings.trainer.rl, processes)
        self.seen = Seen(self.backbone)
        self.exam = Exam(self.backbone, settings.trainer)
        self.zero = probe(self.backbone)
        self.past_file = settings.rounds_dir / settings.project / PAST

    def past(self) -> Past | None:
        """What is left of older votes, if there is any for this base and these settings."""
        return Past.read(self.past_file, made_for(self.backbone.digest, self.settings.trainer))

    def follow(self) -> None:
        """Go through the rounds that the first process tells of, until it leaves."""
        while said := self.processes.hear():
            task = Task.model_validate_json(said)
            corpus = Corpus(task.examples, dict(task.replies))
            past = self.past() if task.inputs.past else None
            if task.inputs.past and (past is None or file_digest(self.past_file) != task.inputs.past):
                raise OutOfStep(f"{self.past_file} is not what the first process has.")
            work = Round(self.backbone, self.settings.trainer, task.inputs, corpus, task.prompts, past)
            self._attempt(task.parent, task.live, work)

    def attempt(self, parent: Path, live: Path, work: Round, report: Callable[[int, Step], None]) -> Trial:
        """Improve the adapter in `parent`, with whoever follows; `live` has that of the policy that answers
        people, which is mostly the same. Raises whatever goes wrong."""
        if self.processes.count > 1:
            corpus = work.corpus
            task = Task(
                parent=parent.absolute(), live=live.absolute(), inputs=work.inputs,
                examples=corpus.examples, replies=list(corpus.replies.items()), prompts=work.prompts,
            )  # fmt: skip
            self.processes.hear(task.model_dump_json().encode())
        return self._attempt(parent, live, work, report)

    def _attempt(
        self,
        parent: Path,
        live: Path,
        work: Round,
        report: Callable[[int, Step], None] = lambda number, step: None,
    ) -> Trial:
        rl, backbone, exam = self.settings.trainer.rl, self.backbone, self.exam

        def answer(purpose: str) -> Answers:
            """What the adapter says, as it is now, to the prompts that were held out."""
            return gate.answer(backbone, work.exam, gate.REPLIES, rl.max_tokens, work.generator(purpose))

        backbone.load_adapter(live)
        answers, before = answer("live"), exam.samples(work.generator("samples"))
        if parent != live:
            backbone.load_adapter(parent)
        learned = work.learn(self.seen, exam, self._sampler(work), report)
        knows = (exam.of_adapter(work.generator("knowledge")), exam.of_base())
        candidate, after = answer("candidate"), exam.samples(work.generator("samples"))
        return Trial(answers, before, learned, knows, candidate, after, probe(backbone))

    def _sampler(self, work: Round) -> Sampler:
        rl = self.settings.trainer.rl
        generator = work.generator("rollouts")
        if rl.sampler == "in_process":
            return in_process(self.backbone, rl.replies, rl.max_tokens, generator)
        folder = self.settings.policies_dir / self.settings.project
        urls = self.settings.vllm.urls
        vllm = VllmSampler(self.backbone, urls, folder, rl.replies, rl.max_tokens, generator)
        return lambda prompts: gathered(self.processes, vllm(prompts) if self.processes.first else [])
