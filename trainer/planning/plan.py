"""The plan estimates the memory and time of a round of training before it runs: `hearken train --plan`.

The trainer's own code runs once on a `FakeBackbone` for one batch of each kind of work in a round (sampling,
reference pass, training), and a round is so many of each. Every prompt and reply has its greatest length, and
there are at least the new votes that start a round, so real rounds stay below the estimate. Preference losses
count like the policy gradient, row by row. The fit of the reward model is left out, of its heads on a LoRA,
too, and what database and files take. Time is that of an idle machine.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

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
from trainer.model.batch import padded_width
from trainer.model.device import free_memory, with_threads
from trainer.model.memory import TokenBytes, token_budget
from trainer.model.speed import Speed
from trainer.model.token_budget import TokenBudget
from trainer.planning.batches import Batches, Work
from trainer.planning.fake_model import FakeBackbone
from trainer.planning.machine import Machine
from trainer.planning.phases import Asked, phases_of, replies_trained_on, supervised_stage
from trainer.rl import critic_objective
from trainer.rl.guard import ADAPTER_COPIES

PROMPT_TOKENS = 512
"""Length of the longest prompt, tokens, where the caller names none and the context allows it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`resident` are bytes in use throughout; each of `phases` needs its own peak beside them, and so does
    the `supervised` stage, which a round has only where demonstrations wait, at its longest. `utilisation`
    is the model FLOPs of training as a share of what the device does in matrix products. `toggled` is
    training with gradient checkpointing where it has none, and the other way round. `savings` are the peaks
    (bytes) of settings that need less memory, where the round does not fit. `derived` has the hyperparameters
    that no setting names, each with its value and where it comes from, and the token critic, if any. `budget`
    bounds the batches, and `longest_prompt` the prompts that are trained on, because of `longest_reason`.
    `timed` is False for a device whose speed is not known."""

    parameters: int
    trainable: int
    prompt_tokens: int
    reply_tokens: int
    gradient_checkpointing: bool
    device: str
    free: int
    resident: dict[str, int]
    phases: dict[str, Work]
    supervised: Work
    toggled: Work
    utilisation: float
    derived: dict[str, Any]
    budget: dict[str, int]
    longest_prompt: int
    longest_reason: str
    timed: bool
    savings: dict[str, int] = field(default_factory=dict)

    @property
    def peak(self) -> int:
        works = [*self.phases.values(), self.supervised]
        return sum(self.resident.values()) + max(each.peak.total() for each in works)

    @property
    def seconds(self) -> float:
        return sum(phase.seconds for phase in self.phases.values())

    @property
    def fits(self) -> bool:
        return self.peak <= self.free

    def as_json(self) -> dict[str, Any]:
        """Bytes, seconds (None where they are not known) and FLOPs; the peak of `toggled` includes what is
        resident."""
        works = ("phases", "supervised", "toggled", "utilisation")
        fields = {name: getattr(self, name) for name in self.__slots__ if name not in works}
        peak = sum(self.resident.values()) + self.toggled.peak.total()
        return fields | {
            "phases": {name: self._work(work) for name, work in self.phases.items()},
            "supervised": self._work(self.supervised),
            "toggled": {"seconds": self._known(self.toggled.seconds), "peak": peak},
            "utilisation": self._known(self.utilisation),
            "peak": self.peak,
            "seconds": self._known(self.seconds),
            "fits": self.fits,
        }

    def _work(self, work: Work) -> dict[str, Any]:
        seconds = self._known(work.seconds)
        return {"seconds": seconds, "flops": work.flops, "memory": dict(+work.peak)}

    def _known(self, value: float) -> float | None:
        return value if self.timed else None


NOBODY = Traffic()
"""The traffic before the first turn."""


def plan(
    settings: TrainerSettings,
    model: Path,
    prompt_tokens: int | None = None,
    machine: Machine | None = None,
    traffic: Traffic = NOBODY,
    learning_rate: float | None = None,
) -> Plan:
    """The plan for the base in `model`, whose weights are not read, on this machine's device, or another,
    where people are served as `traffic` says and the last round found this learning rate."""
    settings = _on_threads(settings, model)
    backbone = FakeBackbone(model, settings.rl, None if machine is None else machine.on_gpu)
    if machine is None:
        machine = Machine.here(backbone)
    speed = _speed(settings, backbone, machine)
    derivation = _derivation(settings, backbone, traffic, speed, learning_rate)
    rl, derived = derivation.hyperparameters(), derivation.as_json()
    if not machine.timed and "prompts_per_step" in derived:
        derived["prompts_per_step"]["reason"] = "the most, which a slow device has no time for"
    asked = Asked.of(settings, backbone)
    found = _plan(settings, backbone, rl, prompt_tokens, machine, speed, asked)
    found.derived.update(derived)
    if rl.gradient_checkpointing is None:
        found.derived["gradient_checkpointing"] = _checkpointing(backbone, TokenBudget(**found.budget))
    if (critic := token_critic(rl, backbone)) is not None:
        found.derived["token_critic"] = critic
    if not found.fits:
        shorter = max(1, rl.max_tokens // 2)
        for change in (
            {"gradient_checkpointing": True},
            {"max_tokens": shorter},
            {"gradient_checkpointing": True, "max_tokens": shorter},
        ):
            changed = rl.model_copy(update=change)
            peak = _plan(settings, backbone, changed, found.prompt_tokens, machine, speed, asked).peak
            if peak < found.peak:
                names = ", ".join(
                    f"trainer.rl.{name} = {str(value).lower()}" for name, value in change.items()
                )
                found.savings[names] = peak
    return found


def _on_threads(settings: TrainerSettings, model: Path) -> TrainerSettings:
    """Returns the settings with the threads that the trainer would have, which this process has from now."""
    settings = with_threads(settings, model)
    torch.set_num_threads(settings.threads or 1)
    return settings


def _derivation(
    settings: TrainerSettings, backbone: FakeBackbone, traffic: Traffic, speed: Speed, rate: float | None
) -> Derivation:
    """Returns the derivation of a round that begins once there are votes enough."""
    due = replace(traffic, new_votes=max(traffic.new_votes, settings.round_votes))
    return Derivation(settings, Model.of(backbone), due, speed, rate)


def _speed(settings: TrainerSettings, backbone: FakeBackbone, machine: Machine) -> Speed:
    """Returns the speed that the device's rates give, before the first turn."""
    prompts, rows, reply = 8, 4, int(DEFAULT_REPLY)
    given = {"learning_rate": 1.0, "steps_per_round": 1, "prompts_per_step": prompts, "sampler": None}
    rl = Hyperparameters(**settings.rl.model_dump() | given | {"max_tokens": reply})
    batches = Batches(backbone, rl, machine.rates)
    row = int(DEFAULT_PROMPT) + reply
    works = (
        batches.sample(row - reply, prompts, rows), batches.train(row - reply, rows),
        batches.reference_pass(row - reply, rows),
    )  # fmt: skip
    sampling, training, scoring = (max(each.seconds, 1e-9) for each in works)
    return Speed(prompts * rows * reply / sampling, rows * row / training, rows * row / scoring)


def fit(
    settings: TrainerSettings, model: Path, traffic: Traffic = NOBODY, learning_rate: float | None = None
) -> dict[str, Any]:
    """Returns in words what fits into the memory that is free on this machine: `batches`, where
    `checkpointing` is used and why, and whether the least batch `fits`; and the hyperparameters `derived`, as
    `plan` has them. It takes seconds."""
    settings = _on_threads(settings, model)
    backbone = FakeBackbone(model, settings.rl)
    memory = free_memory(backbone.device) - sum(_resident(backbone).values())
    count, budget = _budget(backbone, settings.rl.samples_per_prompt, memory)
    speed = _speed(settings, backbone, Machine.here(backbone))
    batches = (
        f"batches of {budget.training:,} tokens in training, {budget.sampling:,} in sampling,"
        f" and rows of {budget.row:,}"
    )
    return {
        "batches": batches,
        "checkpointing": _checkpointing(backbone, budget),
        "fits": count.least_batch <= memory,
        "derived": _derivation(settings, backbone, traffic, speed, learning_rate).as_json(),
    }


def token_critic(rl: Hyperparameters, backbone: FakeBackbone) -> dict[str, str] | None:
    """Returns that a step may learn from a token critic instead of sampled returns, and why; None where it
    does not (`trainer.rl.critic_objective`)."""
    if not critic_objective.is_needed(rl, backbone, rl.max_tokens):
        return None
    samples = rl.prompts_per_step * rl.samples_per_prompt
    reason = (
        f"{samples} samples a step are few for replies of {rl.max_tokens} tokens, so the base's samples are"
        " neither replayed nor trained on (SFT); memory and time are those of steps without it"
    )
    return {"value": "instead of sampled returns", "reason": reason}


def _checkpointing(backbone: FakeBackbone, budget: TokenBudget) -> dict[str, str]:
    """Returns where activations are computed again, and why."""
    setting = backbone.gradient_checkpointing
    if setting is not None:
        return {"value": "always" if setting else "never", "reason": "trainer.rl.gradient_checkpointing"}
    if budget.kept >= budget.row:
        return {"value": "never", "reason": "the activations of all rows fit into the free memory"}
    if budget.kept == 0:
        return {"value": "always", "reason": "the activations of no batch fit into the free memory"}
    reason = "the activations of longer rows do not fit into the free memory"
    return {"value": f"above {budget.kept:,} tokens", "reason": reason}


def _resident(backbone: FakeBackbone) -> dict[str, int]:
    """Returns the bytes in use throughout, beside those of the framework."""
    adapter = sum(weight.numel() * weight.element_size() for weight in backbone.trainable())
    return {
        "weights of the base": sum(weight.nbytes for weight in backbone.model.parameters()) - adapter,
        "adapter, gradient, AdamW, snapshots": ADAPTER_COPIES * adapter,
    }


def _plan(
    settings: TrainerSettings, backbone: FakeBackbone, rl: Hyperparameters, prompt_tokens: int | None,
    machine: Machine, speed: Speed, asked: Asked,
) -> Plan:  # fmt: skip
    backbone.gradient_checkpointing = rl.gradient_checkpointing
    resident = {"Python, torch and its kernels": machine.framework, **_resident(backbone)}
    _, budget = _budget(backbone, rl.samples_per_prompt, machine.free - sum(resident.values()))
    longest_prompt = budget.longest_prompt(rl.max_tokens, settings.max_prompt_tokens)
    length = max(1, min(prompt_tokens or PROMPT_TOKENS, longest_prompt))
    rows = replies_trained_on(rl)
    batches = Batches(backbone, rl, machine.rates)
    train = batches.train(length, rows)
    checkpoints = backbone.checkpoints(batches.rows(length, rows) * padded_width(length, rl.max_tokens))
    backbone.gradient_checkpointing = not checkpoints
    toggled = batches.train(length, rows)
    backbone.gradient_checkpointing = rl.gradient_checkpointing
    phases = phases_of(settings, rl, backbone, batches, length, asked)
    matmul = machine.rates.matmul[backbone.compute_dtype]
    return Plan(
        parameters=backbone.parameter_count,
        trainable=sum(weight.numel() for weight in backbone.trainable()),
        prompt_tokens=length,
        reply_tokens=rl.max_tokens,
        gradient_checkpointing=checkpoints,
        device=machine.name,
        free=machine.free,
        resident=resident,
        phases=phases,
        supervised=supervised_stage(settings, rl, batches, length, asked, speed),
        toggled=toggled.scaled(rl.steps_per_round),
        derived={},
        utilisation=min(train.flops, toggled.flops) / train.seconds / matmul if machine.timed else 0.0,
        budget=budget.model_dump(),
        longest_prompt=longest_prompt,
        longest_reason=_longest_reason(settings, rl, backbone.context_length, budget),
        timed=machine.timed,
    )


def _budget(backbone: FakeBackbone, samples: int, memory: int) -> tuple[TokenBytes, TokenBudget]:
    """Gives the backbone the token budget that the trainer would have with so much memory."""
    with backbone.mode:
        count = TokenBytes.count(backbone)
    backbone.token_budget = token_budget(backbone, count, memory, max(samples, BASE_SAMPLES))
    return count, backbone.token_budget


def _longest_reason(settings: TrainerSettings, rl: Hyperparameters, context: int, budget: TokenBudget) -> str:
    if settings.max_prompt_tokens == budget.longest_prompt(rl.max_tokens, settings.max_prompt_tokens):
        return "trainer.max_prompt_tokens"
    return "the context of the base" if budget.row == context else "the free memory"
