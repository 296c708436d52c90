"""Learner runs a round on this process's copy of the model; in a process group, all ranks run it in lockstep.

Rank 0 is the trainer: only it reads votes and publishes. It broadcasts the round's data to the other ranks,
which run the same round with the same seeds and get the same adapter.
"""

from dataclasses import dataclass
from pathlib import Path

import structlog
from pydantic import BaseModel, ConfigDict

from schemas.errors import HearkenError
from schemas.policies import BASE, Probe, file_digest
from schemas.settings import GateSettings, Settings
from trainer.data.examples import Corpus, Example, Key, Reply
from trainer.data.feature_cache import FeatureCache
from trainer.data.hyperparameters import Derivation, Model, lora_seconds
from trainer.data.prompt_groups import PromptGroup
from trainer.data.round_inputs import RoundInputs
from trainer.data.split import RoundData
from trainer.data.traffic import Traffic
from trainer.data.vote_summary import FILE, VoteSummary
from trainer.evaluation.constraints.check import Behaviour, answer_texts, check_behaviour
from trainer.evaluation.constraints.finding import Finding, Replies
from trainer.evaluation.constraints.judged import judge_replies
from trainer.evaluation.eval_samples import SAMPLES_PER_PROMPT, EvalSamples, sample_eval
from trainer.evaluation.gate import GateSamples
from trainer.evaluation.knowledge import KnowledgeAccuracy, KnowledgeEval
from trainer.evaluation.off_policy import CANDIDATE, Logprobs, reply_logprobs
from trainer.model.adapter import probe
from trainer.model.distributed import SINGLE_PROCESS, ProcessGroup
from trainer.model.progress import Report, report_nothing
from trainer.model.rollouts import adapter_sampler
from trainer.model.token_budget import TokenBudget
from trainer.records.attribution import side_by_side
from trainer.resident_base import ResidentBase
from trainer.rl.supervised import MAX_EPOCHS
from trainer.round import RoundResult, run_round

log = structlog.get_logger("trainer")


class WorkerOutOfSync(HearkenError):
    """A distributed round failed in one process while the others wait in a collective operation. All of them
    must be started again."""


class RoundBroadcast(BaseModel):
    """A round as rank 0 broadcasts it: its project, its data, and the directories of the adapters of its
    parent and of the live policy. Each rank reads the vote summary's file itself."""

    model_config = ConfigDict(frozen=True)

    project: str
    parent: Path
    live: Path
    inputs: RoundInputs
    examples: list[Example]
    replies: list[tuple[Key, Reply]]
    groups: dict[str, PromptGroup]
    prompts: dict[str, list[int]]
    demonstrations: list[Reply] = []


@dataclass(frozen=True, slots=True)
class CandidateResult:
    """A trained candidate, whose adapter is in the backbone, with what the gate and the record need of it:
    `logprobs` are the held-out replies' under the policies of the round, `constraints` what was found of
    each, `shown` has replies of the live policy and of the candidate side by side."""

    round: RoundResult
    samples: GateSamples
    logprobs: Logprobs
    accuracy: KnowledgeAccuracy
    constraints: list[Finding]
    shown: list[dict[str, str]]
    probe: Probe


class Learner:
    """One process's part in the rounds of a project. Learners of several projects share a `base`; without
    one, it loads its own."""

    def __init__(
        self, settings: Settings, group: ProcessGroup = SINGLE_PROCESS, base: ResidentBase | None = None
    ) -> None:
        self.settings = settings
        self.base = base or ResidentBase(settings, group)
        self.group = self.base.group
        self.backbone = self.base.backbone
        self.directory = settings.rounds_dir / settings.project

    def of_project(self, project: str) -> "Learner":
        """Returns a learner of another project over the same base."""
        return Learner(self.settings.model_copy(update={"project": project}), base=self.base)

    @property
    def cache(self) -> FeatureCache:
        """The base's scores of the project's voted replies."""
        return self.base.cache(self.settings.project)

    @property
    def knowledge(self) -> KnowledgeEval:
        """The knowledge evaluation of the base (`ResidentBase.knowledge`)."""
        return self.base.knowledge

    @property
    def token_budget(self) -> TokenBudget:
        """The bounds of batches that fit into this machine's memory."""
        return self.base.token_budget

    def derive(self, traffic: Traffic, learning_rate: float | None) -> Derivation:
        """Returns the derivation of a round's hyperparameters, given what the last round found."""
        speed = self.base.speed
        return Derivation(self.settings.trainer, Model.of(self.backbone), traffic, speed, learning_rate)

    def longest_prompt(self, reply_tokens: int) -> int:
        """Returns the most tokens of a prompt that is trained on with replies of so many tokens."""
        return self.token_budget.longest_prompt(reply_tokens, self.settings.trainer.max_prompt_tokens)

    @property
    def longest_row(self) -> int:
        """The most tokens of a prompt and its reply together that are trained on."""
        return min(self.backbone.context_length, self.token_budget.row)

    @property
    def supervised_tokens(self) -> float:
        """The tokens of demonstrations that a round has time for."""
        return self.settings.trainer.max_round_seconds * self.base.speed.training / MAX_EPOCHS

    @property
    def lora_tokens(self) -> int:
        """The tokens that the heads of a round's reward model have time for, in passes with gradients."""
        return int(lora_seconds(self.settings.trainer) * self.base.speed.training)

    def _knowledge_for(self, data: RoundData) -> KnowledgeEval:
        """Returns the knowledge evaluation of a round, which one process may repeat with the settings and the
        probes of its time."""
        present = self.settings.trainer.with_objective(data.inputs.objective), self.knowledge.probe_set
        if self.group.size > 1 or (data.settings, data.inputs.probes) == present:
            return self.knowledge
        return KnowledgeEval(self.backbone, data.settings, data.inputs.probes)

    def summary(self) -> VoteSummary | None:
        """Returns the vote summary, if there is one for this base and these settings."""
        return VoteSummary.read(self.directory, self.backbone.features_digest, self.settings.trainer)

    def follow(self) -> None:
        """Runs the rounds that rank 0 broadcasts, until it ends. Raises WorkerOutOfSync when this process has
        another vote summary."""
        log.info("worker ready", rank=self.group.rank, **self.knowledge.facts)
        while message := self.group.broadcast():
            task = RoundBroadcast.model_validate_json(message)
            learner = self.of_project(task.project)
            digest, summary = task.inputs.vote_summary, None
            if digest:
                summary, path = learner.summary(), learner.directory / FILE
                if summary is None or summary.lost or file_digest(path) != digest:
                    raise WorkerOutOfSync(f"{path} is not the vote summary that rank 0 has.")
            corpus = Corpus(task.examples, dict(task.replies), groups=task.groups)
            data = RoundData(
                self.backbone, self.settings.trainer, task.inputs, corpus, task.prompts, summary,
                task.demonstrations,
            )  # fmt: skip
            learner._train(task.parent, task.live, data)

    def train_candidate(
        self, parent: Path, live: Path, data: RoundData, report: Report = report_nothing
    ) -> CandidateResult:
        """Trains the adapter in `parent`, together with the ranks that follow, and reports its progress.
        `live` has the adapter of the policy that people are served, which is mostly the same."""
        if self.group.size > 1:
            task = RoundBroadcast(
                project=self.settings.project, parent=parent.absolute(), live=live.absolute(),
                inputs=data.inputs,
                examples=data.corpus.examples, replies=list(data.corpus.replies.items()),
                groups=dict(data.corpus.groups), prompts=data.prompts,
                demonstrations=list(data.demonstrations),
            )  # fmt: skip
            self.group.broadcast(task.model_dump_json().encode())
        return self._train(parent, live, data, report)

    def _train(
        self, parent: Path, live: Path, data: RoundData, report: Report = report_nothing
    ) -> CandidateResult:
        self.backbone.token_budget = data.inputs.token_budget
        self.backbone.engine = None if data.rl.sampler == "in_process" else self.base.engine
        knowledge = self._knowledge_for(data)
        spec = data.spec(SAMPLES_PER_PROMPT)

        def evaluate(purpose: str) -> EvalSamples:
            return sample_eval(self.backbone, data.eval_prompts, spec, data.generator(purpose))

        self.backbone.load_adapter(live)
        live_samples, live_yielding = evaluate("live"), self.base.sycophancy.policy(live.name)
        logprobs = {live.name: reply_logprobs(self.backbone, data)}
        with self.backbone.reference():
            logprobs[BASE] = reply_logprobs(self.backbone, data)
        before = knowledge.samples(data.generator("samples"))
        if parent != live:
            self.backbone.load_adapter(parent)
            logprobs[parent.name] = reply_logprobs(self.backbone, data)
        sampler = adapter_sampler(
            self.backbone, data.spec(data.rl.samples_per_prompt), data.generator("rollouts")
        )
        result = run_round(data, self.cache, knowledge, sampler, report=report)
        report("evaluating", 0, 0)
        logprobs[CANDIDATE] = reply_logprobs(self.backbone, data)
        accuracy = KnowledgeAccuracy(
            base=knowledge.base_accuracy(),
            candidate=knowledge.adapter_accuracy(data.generator("knowledge")),
            topics=knowledge.topics,
        )
        samples = GateSamples(candidate=evaluate("candidate"), live=live_samples, base=result.base)
        texts = [answer_texts(self.backbone, each) for each in (samples.candidate, live_samples, result.base)]
        behaviour = Behaviour(
            Replies(*texts),
            self.base.sycophancy.adapter(),
            live_yielding,
            self.base.sycophancy.base(),
            accuracy,
        )
        return CandidateResult(
            result,
            samples,
            logprobs,
            accuracy,
            self._check_constraints(behaviour, data.settings.gate),
            side_by_side(before, knowledge.samples(data.generator("samples"))),
            probe(self.backbone),
        )

    def _check_constraints(self, behaviour: Behaviour, gate: GateSettings) -> list[Finding]:
        """Returns what was found of each constraint, also by the judge where there is one."""
        found = check_behaviour(behaviour, gate, self.base.blocklist)
        judge = self.base.judge(self.settings.project)
        return found if judge is None else [*found, *judge_replies(judge, behaviour.replies, gate)]
