"""The plan estimates the memory and time of a round of training before it runs: `hearken train --plan`.

The trainer's own code runs once on a `FakeBackbone` for one batch of each kind of work in a round (sampling,
reference pass, training), and a round is so many of each. Every prompt and reply has its greatest length, so
real rounds stay below the estimate. Preference losses count like the policy gradient, row by row. The fit of
the reward model (about a second) is left out, and so are its heads on a LoRA, whose time is bounded.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

from schemas.settings import TrainerSettings
from trainer.data.hyperparameters import (
    BASE_SAMPLES,
    DEFAULT_PROMPT,
    DEFAULT_REPLY,
    Derivation,
    Hyperparameters,
    Model,
)
from trainer.data.traffic import Traffic
from trainer.evaluation import eval_samples, knowledge, screening
from trainer.evaluation.constraints.sycophancy import MAX_QUESTIONS, shipped_claims
from trainer.evaluation.questions import Question, is_starter, own_questions, shipped_questions
from trainer.model.batch import padded_width
from trainer.model.device import Rates, free_memory, memory_in_use, release_memory
from trainer.model.memory import TokenBytes, token_budget
from trainer.model.rollouts import MAX_ROWS, Rollout, sample_tokens
from trainer.model.speed import Speed
from trainer.model.token_budget import TokenBudget
from trainer.planning.fake_model import FakeBackbone
from trainer.planning.op_profiler import OpProfiler
from trainer.reward import features
from trainer.reward.scoring import MICRO_BATCH, Scored
from trainer.rl import advantages
from trainer.rl.batch import Batch
from trainer.rl.guard import ADAPTER_COPIES, CHECK_INTERVAL
from trainer.rl.objectives import PolicyGradient, policy_objective
from trainer.rl.training_objective import BASE_SAMPLES_SHARE

PROMPT_TOKENS = 512
"""Length of the longest prompt, tokens, where the caller names none and the context allows it."""


@dataclass(frozen=True, slots=True)
class Work:
    """A piece of work: seconds, floating point operations, and its peak memory in bytes by kind of tensor."""

    seconds: float = 0.0
    flops: float = 0.0
    peak: Counter[str] = field(default_factory=Counter)

    def scaled(self, count: float) -> "Work":
        return Work(self.seconds * count, self.flops * count, self.peak)

    def then(self, other: "Work") -> "Work":
        higher = max(self.peak, other.peak, key=Counter.total)
        return Work(self.seconds + other.seconds, self.flops + other.flops, higher)


@dataclass(frozen=True, slots=True)
class Plan:
    """`resident` are bytes in use throughout; each of `phases` needs its own peak beside them. `utilisation`
    is the model FLOPs of training as a share of what the device does in matrix products. `toggled` is
    training with the other value of `rl.gradient_checkpointing`. `savings` are the peaks (bytes) of settings
    that need less memory, where the round does not fit. `derived` has the hyperparameters that no setting
    names, each with its value and where it comes from. `budget` bounds the batches, and `longest_prompt` the
    prompts that are trained on, because of `longest_reason`."""

    parameters: int
    trainable: int
    prompt_tokens: int
    reply_tokens: int
    gradient_checkpointing: bool
    device: str
    free: int
    resident: dict[str, int]
    phases: dict[str, Work]
    toggled: Work
    utilisation: float
    derived: dict[str, Any]
    budget: dict[str, int]
    longest_prompt: int
    longest_reason: str
    savings: dict[str, int] = field(default_factory=dict)

    @property
    def peak(self) -> int:
        return sum(self.resident.values()) + max(phase.peak.total() for phase in self.phases.values())

    @property
    def seconds(self) -> float:
        return sum(phase.seconds for phase in self.phases.values())

    @property
    def fits(self) -> bool:
        return self.peak <= self.free

    def as_json(self) -> dict[str, Any]:
        """Bytes, seconds and FLOPs; the peak of `toggled` includes what is resident."""
        fields = {name: getattr(self, name) for name in self.__slots__ if name not in ("phases", "toggled")}
        peak = sum(self.resident.values()) + self.toggled.peak.total()
        return fields | {
            "phases": {
                name: {"seconds": work.seconds, "flops": work.flops, "memory": dict(+work.peak)}
                for name, work in self.phases.items()
            },
            "toggled": {"seconds": self.toggled.seconds, "peak": peak},
            "peak": self.peak,
            "seconds": self.seconds,
            "fits": self.fits,
        }


def plan(settings: TrainerSettings, model: Path, prompt_tokens: int | None = None) -> Plan:
    """The plan for the base in `model`, whose weights are not read, on this machine's device."""
    torch.set_num_threads(settings.threads)
    backbone = FakeBackbone(model, settings.rl)
    rates = Rates.measure(backbone.device, backbone.model.config.get_text_config().hidden_size)
    release_memory()
    framework = memory_in_use(backbone.device)
    derivation = _derive(settings, backbone, rates)
    rl = derivation.hyperparameters()
    machine = _Machine(rates, framework, derivation.as_json())
    found = _plan(settings, model, rl, prompt_tokens, machine)
    if not found.fits:
        shorter = max(1, rl.max_tokens // 2)
        for change in (
            {"gradient_checkpointing": True},
            {"max_tokens": shorter},
            {"gradient_checkpointing": True, "max_tokens": shorter},
        ):
            changed = rl.model_copy(update=change)
            peak = _plan(settings, model, changed, found.prompt_tokens, machine).peak
            if peak < found.peak:
                names = ", ".join(
                    f"trainer.rl.{name} = {str(value).lower()}" for name, value in change.items()
                )
                found.savings[names] = peak
    return found


@dataclass(frozen=True, slots=True)
class _Machine:
    """The device's rates, the bytes that the process uses anyway, and what was derived from its speed."""

    rates: Rates
    framework: int
    derived: dict[str, Any]


def _derive(settings: TrainerSettings, backbone: FakeBackbone, rates: Rates) -> Derivation:
    """Derives the hyperparameters before the first turn, with the speed that the device's rates give."""
    prompts, rows, reply = 8, 4, int(DEFAULT_REPLY)
    given = {"learning_rate": 1.0, "steps_per_round": 1, "prompts_per_step": prompts, "sampler": None}
    rl = Hyperparameters(**settings.rl.model_dump() | given | {"max_tokens": reply})
    batches = _Batches(backbone, rl, rates)
    row = int(DEFAULT_PROMPT) + reply
    speed = Speed(
        sampling=prompts * rows * reply / batches.sample(row - reply, prompts, rows).seconds,
        training=rows * row / batches.train(row - reply, rows).seconds,
        scoring=rows * row / batches.reference_pass(row - reply, rows).seconds,
    )
    return Derivation(settings, Model.of(backbone), Traffic(), speed)


def _plan(
    settings: TrainerSettings, model: Path, rl: Hyperparameters, prompt_tokens: int | None, machine: _Machine
) -> Plan:
    rates, framework = machine.rates, machine.framework
    backbone = FakeBackbone(model, rl)
    free = free_memory(backbone.device) + framework
    adapter = sum(weight.numel() * weight.element_size() for weight in backbone.trainable())
    resident = {
        "Python, torch and its kernels": framework,
        "weights of the base": sum(weight.nbytes for weight in backbone.model.parameters()) - adapter,
        "adapter, gradient, AdamW, snapshots": ADAPTER_COPIES * adapter,
    }
    memory = free - sum(resident.values())
    budget = _budget(backbone, rl, memory)
    longest_prompt = budget.longest_prompt(rl.max_tokens, settings.max_prompt_tokens)
    length = max(1, min(prompt_tokens or PROMPT_TOKENS, longest_prompt))
    rows = _replies_trained_on(rl)
    batches = _Batches(backbone, rl, rates)
    train = batches.train(length, rows)
    other = rl.model_copy(update={"gradient_checkpointing": not rl.gradient_checkpointing})
    other_backbone = FakeBackbone(model, other)
    _budget(other_backbone, rl, memory)
    toggled = _Batches(other_backbone, rl, rates).train(length, rows)
    phases = _phases(settings, rl, batches, length, train.scaled(rl.steps_per_round))
    phases["false claims"] = _claims(backbone, batches)
    phases["knowledge questions"] = _knowledge(settings, rl, backbone, batches)
    return Plan(
        parameters=backbone.parameter_count,
        trainable=sum(weight.numel() for weight in backbone.trainable()),
        prompt_tokens=length,
        reply_tokens=rl.max_tokens,
        gradient_checkpointing=rl.gradient_checkpointing,
        device=torch.cuda.get_device_name() if backbone.device.type == "cuda" else "cpu",
        free=free,
        resident=resident,
        phases=phases,
        toggled=toggled.scaled(rl.steps_per_round),
        derived=machine.derived,
        utilisation=min(train.flops, toggled.flops) / train.seconds / rates.matmul[backbone.compute_dtype],
        budget=budget.model_dump(),
        longest_prompt=longest_prompt,
        longest_reason=_longest_reason(settings, rl, backbone.context_length, budget),
    )


def _budget(backbone: FakeBackbone, rl: Hyperparameters, memory: int) -> TokenBudget:
    """Gives the backbone the token budget that the trainer would have with so much memory."""
    with backbone.mode:
        count = TokenBytes.count(backbone)
    backbone.token_budget = token_budget(backbone, count, memory, max(rl.samples_per_prompt, BASE_SAMPLES))
    return backbone.token_budget


def _longest_reason(settings: TrainerSettings, rl: Hyperparameters, context: int, budget: TokenBudget) -> str:
    if settings.max_prompt_tokens == budget.longest_prompt(rl.max_tokens, settings.max_prompt_tokens):
        return "trainer.max_prompt_tokens"
    return "the context of the base" if budget.row == context else "the free memory"


def _replies_trained_on(rl: Hyperparameters) -> int:
    """Rows with gradient in one step: the step's samples, the replayed ones and SFT's."""
    sampled = policy_objective(rl) is not None
    of_prompt = rl.samples_per_prompt if sampled and rl.algorithm != "online_dpo" else 2
    rows = (2 if sampled else 1) * rl.prompts_per_step * of_prompt
    base_samples = round(BASE_SAMPLES_SHARE * rl.prompts_per_step * rl.samples_per_prompt)
    return rows + (base_samples if sampled and rl.base_sft_coef else 0)


def _phases(
    settings: TrainerSettings, rl: Hyperparameters, batches: "_Batches", length: int, training: Work
) -> dict[str, Work]:
    """The phases of a round, without the knowledge questions."""
    replies = rl.prompts_per_step * rl.samples_per_prompt
    return {
        "sampling": batches.sample(length, rl.prompts_per_step, rl.samples_per_prompt).scaled(
            rl.steps_per_round
        ),
        "reference pass": batches.reference_pass(length, replies)
        .scaled(rl.steps_per_round)
        .then(batches.reference_pass(length, BASE_SAMPLES * rl.base_prompts)),
        "training": training,
        "evaluation samples": batches.evaluate(
            length, settings.gate.eval_prompts, eval_samples.SAMPLES_PER_PROMPT
        )
        .scaled(2)
        .then(batches.evaluate(length, rl.base_prompts, BASE_SAMPLES)),
        "new votes": batches.reference_pass(length, 1).scaled(settings.round_votes),
    }


def _knowledge(
    settings: TrainerSettings, rl: Hyperparameters, backbone: FakeBackbone, batches: "_Batches"
) -> Work:
    """The knowledge questions: the starter's or the operator's, and as many probes as another base may
    have."""
    own = own_questions(backbone.directory, settings.gate, settings.seed)
    room = settings.gate.knowledge_questions - len(own)
    probes = 0 if is_starter(backbone.directory) else min(screening.MAX_PROBES, room)
    guard = min(knowledge.GUARD_QUESTIONS, len(own))
    checks = rl.steps_per_round // CHECK_INTERVAL
    work = Work()
    if own:
        longest = _longest(backbone, own)
        work = (
            batches.sample(longest, guard, 1)
            .scaled(checks)
            .then(batches.sample(longest, len(own), knowledge.SAMPLES_PER_QUESTION).scaled(2))
            .then(batches.sample(longest, len(own), knowledge.BASE_SAMPLES_PER_QUESTION))
        )
    if probes:
        longest, reply = _longest(backbone, shipped_questions()), screening.reply_tokens(backbone)
        guard = min(knowledge.GUARD_QUESTIONS - guard, probes)
        if guard:
            work = work.then(batches.sample(longest, guard, 1, reply).scaled(checks))
        work = work.then(batches.sample(longest, probes, knowledge.SAMPLES_PER_PROBE, reply).scaled(2))
    return work


def _claims(backbone: FakeBackbone, batches: "_Batches") -> Work:
    """The questions behind false claims, of which two answers each are scored, by two policies."""
    asked = [
        (Question(each.asserted(row), ()), each.statement.format(each.right))
        for row, each in enumerate(shipped_claims())
    ]
    reply = max(len(backbone.encode_reply(answer)) for _, answer in asked)
    longest = _longest(backbone, [question for question, _ in asked])
    return batches.reference_pass(longest, 2 * MAX_QUESTIONS, reply).scaled(4)


def _longest(backbone: FakeBackbone, questions: Sequence[Question]) -> int:
    """The longest prompt of these questions, tokens."""
    return max(len(backbone.render([{"role": "user", "content": each.prompt}])) for each in questions)


class _Batches:
    """Profiles one batch of each kind of work: all prompts have `length` tokens, all replies
    `rl.max_tokens`."""

    def __init__(self, backbone: FakeBackbone, rl: Hyperparameters, rates: Rates) -> None:
        self._backbone = backbone
        self._rates = rates
        self._reply = rl.max_tokens
        self._on_vllm = rl.sampler == "vllm"
        self._objective = PolicyGradient(advantages.leave_one_out, rl.importance_weight_cap)

    def train(self, length: int, rows: int) -> Work:
        """Forward and backward passes of `rows` replies."""
        backbone, reply = self._backbone, self._reply
        total, rows = rows, self._rows(length, rows)
        with backbone.mode:
            for weight in backbone.trainable():
                weight.grad = torch.zeros_like(weight)
            with OpProfiler(backbone, self._rates) as profiler:
                rollouts = [Rollout(0, [0] * reply, [0.0] * reply, False)] * rows
                zeros = [[0.0] * reply] * rows
                scored = Scored(zeros, {}, [[0] * reply] * rows, zeros, zeros)
                batch = Batch([[0] * length] * rows, rollouts, scored, torch.zeros(1, rows), 0.0, 0.0)
                self._objective.backward(backbone, batch)
        return _work(profiler).scaled(total / rows)

    def reference_pass(self, length: int, rows: int, reply: int | None = None) -> Work:
        """Log-probabilities and features of `rows` replies by the base, each of `reply` tokens."""
        backbone, layers = self._backbone, features.select_layers(self._backbone)
        total, rows = rows, self._rows(length, rows)
        with (
            backbone.mode,
            OpProfiler(backbone, self._rates) as profiler,
            torch.no_grad(),
            backbone.reference(),
        ):
            batch = backbone.pad([[0] * length] * rows, [[0] * (reply or self._reply)] * rows)
            features.extract_features(batch, backbone.base_scores(batch, layers).hidden)
        return _work(profiler).scaled(total / rows)

    def evaluate(self, length: int, prompts: int, samples_per_prompt: int) -> Work:
        """Replies sampled to all prompts and scored by the base."""
        scored = self.reference_pass(length, prompts * samples_per_prompt)
        return self.sample(length, prompts, samples_per_prompt).then(scored)

    def sample(
        self, length: int, prompts: int, samples_per_prompt: int, reply_tokens: int | None = None
    ) -> Work:
        """Replies sampled to all prompts, which is no work of this process where vLLM samples. Decoding steps
        get longer in proportion to a row, so their mean is that of the first and the last."""
        if self._on_vllm:
            return Work()
        backbone, reply = self._backbone, reply_tokens or self._reply
        most = min(MAX_ROWS, backbone.token_budget.sampling // padded_width(length, reply))
        at_once = min(prompts, max(1, most // samples_per_prompt))
        rows = at_once * samples_per_prompt
        with (
            backbone.mode,
            OpProfiler(backbone, self._rates) as profiler,
            torch.no_grad(),
            backbone.decoding(),
        ):
            cache = self._cache()
            self._forward(cache, at_once, length, length)
            cache.batch_repeat_interleave(samples_per_prompt)
            work = _work(profiler)
            for width in (length + 1, length + reply):
                if width > length + 1:
                    with profiler.paused():
                        cache = self._cache()
                        self._forward(cache, rows, width - 1, width - 1)
                before = _work(profiler)
                self._choose_token(self._forward(cache, rows, 1, width))
                step = Work(profiler.seconds - before.seconds, profiler.flops - before.flops, profiler.peak)
                work = work.then(step.scaled(reply / 2))
        return work.scaled(prompts / at_once)

    def _rows(self, length: int, rows: int) -> int:
        """The rows of a batch of training or scoring, if there are so many."""
        most = self._backbone.token_budget.training // padded_width(length, self._reply)
        return min(MICRO_BATCH, rows, max(1, most))

    def _cache(self) -> Any:
        return DynamicCache(config=self._backbone.model.config)

    def _forward(self, cache: Any, rows: int, new: int, width: int) -> torch.Tensor:
        """(B, V) logits after `new` more tokens, with which each row has `width` tokens."""
        ones_BT = torch.ones(rows, width, dtype=torch.long, device=self._backbone.device)
        return self._backbone.next_logits_BV(ones_BT[:, -new:], ones_BT, ones_BT[:, -new:], cache)

    def _choose_token(self, logits_BV: torch.Tensor) -> None:
        logp_BV = logits_BV.log_softmax(1)
        logp_BV.gather(1, sample_tokens(logp_BV, 0, len(logp_BV), torch.Generator()).unsqueeze(1))


def _work(profiler: OpProfiler) -> Work:
    return Work(profiler.seconds, profiler.flops, profiler.peak)
