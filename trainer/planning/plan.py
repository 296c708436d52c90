"""What a round of training would take, in memory and time, before it is spent: `hearken train --plan`.

The trainer's own code runs once on tensors without memory (`imagined`) for each kind of work in a round: a
batch of replies sampled, one read by the base, one trained on. A round is so many of each. Every prompt and
every reply is taken to be as long as it may be, so real rounds stay below. Preference losses are taken to
train as the policy gradient does, row by row. Not counted: the reward model's fit (a second).
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

from schemas.settings import RLSettings, TrainerSettings
from trainer.evaluation import gate, knowledge
from trainer.model.device import Rates, free_memory, held
from trainer.model.rollouts import ROWS, Rollout, drawn
from trainer.planning.fake_model import Imagined, Ledger
from trainer.reward import features
from trainer.reward.scoring import MICRO_BATCH
from trainer.rl import losses
from trainer.rl.objectives import PolicyGradient, Samples, on_samples
from trainer.rl.optimize import AVERAGED, GUARD_STEPS, release_memory
from trainer.round import BASE_PROMPTS, BASE_REPLIES, EXEMPLARS

PROMPT_TOKENS = 512
"""Of the longest prompt, where the context leaves so many and nothing else is said."""

ADAPTERS = 1 + 1 + 2 + 2 + AVERAGED
"""As large as the adapter: itself, its gradient, AdamW's two moments, the two steps that the guard may go
back to, and those that are averaged."""


@dataclass(frozen=True, slots=True)
class Work:
    """Seconds, floating point operations, and bytes at its highest by what takes them."""

    seconds: float = 0.0
    flops: float = 0.0
    peak: Counter[str] = field(default_factory=Counter)

    def times(self, count: float) -> "Work":
        return Work(self.seconds * count, self.flops * count, self.peak)

    def then(self, other: "Work") -> "Work":
        higher = max(self.peak, other.peak, key=Counter.total)
        return Work(self.seconds + other.seconds, self.flops + other.flops, higher)


@dataclass(frozen=True, slots=True)
class Plan:
    """`standing` are bytes held all the time, beside which each of `phases` takes its own; `utilisation` is
    the model's FLOPs in training against what the device does in matrix products alone; `otherwise` is
    training with `rl.recompute` the other way; `savings` are peaks (bytes) by settings that would lower it,
    where it does not fit."""

    parameters: int
    trainable: int
    prompt_tokens: int
    reply_tokens: int
    recompute: bool
    device: str
    free: int
    standing: dict[str, int]
    phases: dict[str, Work]
    otherwise: Work
    utilisation: float
    savings: dict[str, int] = field(default_factory=dict)

    @property
    def peak(self) -> int:
        return sum(self.standing.values()) + max(phase.peak.total() for phase in self.phases.values())

    @property
    def seconds(self) -> float:
        return sum(phase.seconds for phase in self.phases.values())

    @property
    def fits(self) -> bool:
        return self.peak <= self.free

    def as_json(self) -> dict[str, Any]:
        """Bytes, seconds and FLOPs; the peak of training otherwise includes what stands."""
        fields = {name: getattr(self, name) for name in self.__slots__ if name not in ("phases", "otherwise")}
        peak = sum(self.standing.values()) + self.otherwise.peak.total()
        return fields | {
            "phases": {
                name: {"seconds": work.seconds, "flops": work.flops, "memory": dict(+work.peak)}
                for name, work in self.phases.items()
            },
            "otherwise": {"seconds": self.otherwise.seconds, "peak": peak},
            "peak": self.peak,
            "seconds": self.seconds,
            "fits": self.fits,
        }


def plan(settings: TrainerSettings, model: Path, prompt_tokens: int | None = None) -> Plan:
    """Of the base in `model`, whose weights are not read, on this machine's device."""
    torch.set_num_threads(settings.threads)
    shape = Imagined(model, settings.rl)
    rates = Rates.of(shape.device, shape.model.config.get_text_config().hidden_size)
    release_memory()
    framework = held(shape.device)
    found = _plan(settings, model, prompt_tokens, rates, framework)
    if not found.fits:
        shorter = max(1, settings.rl.max_tokens // 2)
        for change in (
            {"recompute": True},
            {"max_tokens": shorter},
            {"recompute": True, "max_tokens": shorter},
        ):
            changed = settings.model_copy(update={"rl": settings.rl.model_copy(update=change)})
            peak = _plan(changed, model, found.prompt_tokens, rates, framework).peak
            if peak < found.peak:
                names = ", ".join(
                    f"trainer.rl.{name} = {str(value).lower()}" for name, value in change.items()
                )
                found.savings[names] = peak
    return found


def _plan(
    settings: TrainerSettings, model: Path, prompt_tokens: int | None, rates: Rates, framework: int
) -> Plan:
    rl = settings.rl
    round_ = Imagined(model, rl)
    length = min(prompt_tokens or PROMPT_TOKENS, round_.context - rl.max_tokens)
    each = _Each(round_, rl, rates)
    replies = rl.prompts * rl.replies
    sampled = on_samples(rl) is not None
    trained = replies if sampled and rl.algorithm != "online_dpo" else 2 * rl.prompts
    trained += EXEMPLARS if sampled and rl.exemplars else 0
    train = each.trained(length, min(MICRO_BATCH, trained))
    otherwise = _Each(
        Imagined(model, rl.model_copy(update={"recompute": not rl.recompute})), rl, rates
    ).trained(length, min(MICRO_BATCH, trained))
    probes = knowledge.load(model, settings.gate, settings.seed)
    longest = max(
        (len(round_.render([{"role": "user", "content": probe.prompt}])) for probe in probes), default=0
    )
    guarded = rl.steps // GUARD_STEPS
    phases = {
        "sampling": each.sampled(length, rl.prompts, rl.replies).times(
            rl.steps * (rl.sampler == "in_process")
        ),
        "base pass": each.read(length, min(MICRO_BATCH, replies)).times(rl.steps * replies / MICRO_BATCH),
        "training": train.times(rl.steps * trained / MICRO_BATCH),
        "gate answers": each.answered(length, settings.gate.prompts, gate.REPLIES)
        .times(2)
        .then(each.answered(length, BASE_PROMPTS, BASE_REPLIES)),
        "new votes": each.read(length, 1).times(settings.round_votes),
    }
    if probes:
        phases["knowledge probes"] = (
            each.sampled(longest, min(knowledge.GUARD_PROBES, len(probes)), 1)
            .times(guarded)
            .then(each.sampled(longest, len(probes), knowledge.ASKED).times(2))
            .then(each.sampled(longest, len(probes), knowledge.BASE_ASKED))
        )
    useful = min(train.flops, otherwise.flops)
    adapter = sum(weight.numel() * weight.element_size() for weight in round_.trainable())
    return Plan(
        parameters=round_.parameters,
        trainable=sum(weight.numel() for weight in round_.trainable()),
        prompt_tokens=length,
        reply_tokens=rl.max_tokens,
        recompute=rl.recompute,
        device=torch.cuda.get_device_name() if round_.device.type == "cuda" else "cpu",
        free=free_memory(round_.device) + framework,
        standing={
            "Python, torch and its kernels": framework,
            "weights of the base": sum(weight.nbytes for weight in round_.model.parameters()) - adapter,
            "adapter, gradient, AdamW, steps kept": ADAPTERS * adapter,
        },
        phases=phases,
        otherwise=otherwise.times(rl.steps * trained / MICRO_BATCH),
        utilisation=useful / train.seconds / rates.matmul[round_.dtype],
    )


class _Each:
    """One batch of each kind of work, all prompts of `length` tokens and all replies of `rl.max_tokens`."""

    def __init__(self, backbone: Imagined, rl: RLSettings, rates: Rates) -> None:
        self._backbone = backbone
        self._rates = rates
        self._reply = rl.max_tokens
        self._objective = PolicyGradient(losses.leave_one_out, rl.clip, rl.truncation)

    def trained(self, length: int, rows: int) -> Work:
        backbone, reply = self._backbone, self._reply
        with backbone.mode:
            for weight in backbone.trainable():
                weight.grad = torch.zeros_like(weight)
            with Ledger(backbone, self._rates) as ledger:
                rollouts = [Rollout(0, [0] * reply, [0.0] * reply, False)] * rows
                samples = Samples(
                    [[0] * length] * rows, rollouts, torch.zeros(1, rows), [[0.0] * reply] * rows,
                    beta=0.0, held=0.0, kl=0.0,
                )  # fmt: skip
                self._objective.descend(backbone, samples)
        return _of(ledger)

    def read(self, length: int, rows: int) -> Work:
        backbone, layers = self._backbone, features.chosen_layers(self._backbone)
        with backbone.mode, Ledger(backbone, self._rates) as ledger, torch.no_grad(), backbone.reference():
            batch = backbone.pad([[0] * length] * rows, [[0] * self._reply] * rows)
            _, hidden = backbone.logprobs_and_hidden(batch, layers)
            features.of_batch(batch, hidden)
        return _of(ledger)

    def answered(self, length: int, prompts: int, replies: int) -> Work:
        read = self.read(length, MICRO_BATCH).times(prompts * replies / MICRO_BATCH)
        return self.sampled(length, prompts, replies).then(read)

    def sampled(self, length: int, prompts: int, replies: int) -> Work:
        """The steps of a reply grow longer: the first, one in the middle and the last tell of all (Simpson's
        rule)."""
        backbone, reply = self._backbone, self._reply
        at_once = min(prompts, max(1, ROWS // replies))
        rows = at_once * replies
        with backbone.mode, Ledger(backbone, self._rates) as ledger, torch.no_grad(), backbone.merged():
            cache = self._cache()
            self._read_on(cache, at_once, length, length)
            cache.batch_repeat_interleave(replies)
            work = _of(ledger)
            for width, share in ((length + 1, 1 / 6), (length + reply // 2, 4 / 6), (length + reply, 1 / 6)):
                before = _of(ledger)
                with ledger.aside():
                    cache = self._cache()
                    self._read_on(cache, rows, width - 1, width - 1)
                self._token(self._read_on(cache, rows, 1, width))
                step = Work(ledger.seconds - before.seconds, ledger.flops - before.flops, ledger.peak)
                work = work.then(step.times(share * reply))
        return work.times(prompts / at_once)

    def _cache(self) -> Any:
        return DynamicCache(config=self._backbone.model.config)

    def _read_on(self, cache: Any, rows: int, new: int, width: int) -> torch.Tensor:
        """(B, V) logits after `new` tokens more, which make each row `width` long."""
        ones_BT = torch.ones(rows, width, dtype=torch.long, device=self._backbone.device)
        return self._backbone.next_logits_BV(ones_BT[:, -new:], ones_BT, ones_BT[:, -new:], cache)

    def _token(self, logits_BV: torch.Tensor) -> None:
        logp_BV = logits_BV.log_softmax(1)
        logp_BV.gather(1, drawn(logp_BV, 0, len(logp_BV), torch.Generator()).unsqueeze(1))


def _of(ledger: Ledger) -> Work:
    return Work(ledger.seconds, ledger.flops, ledger.peak)
