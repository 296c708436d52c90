"""The learning of one round: from the adapter as it is to a better one, on prompts that people sent.

A step samples k replies to each of a few prompts and moves the adapter once as its objective says
(`objectives`): by default towards those of more reward than the others (RLOO: Ahmadian et al. 2024), each
token less β times what it costs in KL to the base, each reply less what it adds to the `drift`. The guard
looks at every step's samples before it moves on: above the KL budget, or below the least entropy, it goes
back to the last step that was within them, or no further beyond them than the round began, and goes on half
as boldly, but not for ever; and now and then it asks whether knowledge was lost. What a round hands on is the
mean of its last steps (Polyak and Juditsky 1992): each is noisy, and the noise costs KL and buys nothing.
Where that knows too little, half of the way is taken back, and half again (the backtracking line search of
TRPO: Schulman et al. 2015), so that a round is not lost for it.
"""

import ctypes
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from schemas.settings import RLSettings
from trainer.model.backbone import Backbone
from trainer.model.rollouts import Rollout, Sampler, entropy
from trainer.reward.features import Views
from trainer.reward.scoring import cost, measure
from trainer.rl.objectives import HELD, Objective, Samples
from trainer.rl.style_drift import Drift

GUARD_STEPS = 4
MOST_HALVINGS = 2
MOMENTUM = 0.6
"""Of Adam, whose usual 0.9 remembers more steps than a round has: replies got shorter in one round and longer
in the next."""
AVERAGED = 3
NOISE = 1.1
"""By what factor the KL of a step's samples may differ from that of other samples of the same policy."""
B_FASTER = 2.0
"""How much faster LoRA's B learns than its A. B begins at zero, and A learns nothing where B is zero: at one
rate for both a first round moves hardly at all (LoRA+: Hayou, Ghosh and Yu 2024)."""

Reward = Callable[[Views], Tensor]
"""Views of N replies to their rewards (N,)."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one step saw on its samples, before it moved: `reward` by the reward model, `kl` and `entropy` in
    nats per token, `drift` in nats (`trainer.drift`), `length` in tokens, `ended` the share of replies that
    stopped by themselves."""

    reward: float
    kl: float
    drift: float
    entropy: float
    length: float
    ended: float


@dataclass
class Improvement:
    """The steps taken, and every step's samples; `stopped` says why steps were taken back, if some were,
    `halvings` how often half of the way was, for what it knew no more, and `moved` whether the adapter is
    another than before."""

    steps: list[Step] = field(default_factory=list)
    stopped: str | None = None
    halvings: int = 0
    moved: bool = False
    rollouts: list[list[Rollout]] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        steps = [asdict(step) for step in self.steps]
        return {"steps": steps, "stopped": self.stopped, "halvings": self.halvings}


def improve(
    backbone: Backbone,
    prompts: Sequence[list[int]],
    reward: Reward,
    rl: RLSettings,
    generator: torch.Generator,
    objective: Objective,
    sampler: Sampler,
    report: Callable[[int, Step], None] = lambda number, step: None,
    guard: Callable[[], str | None] = lambda: None,
    knows: Callable[[], bool] = lambda: True,
    forgotten: float = 0.0,
    least_entropy: float = 0.0,
    drift: Drift | None = None,
) -> Improvement:
    """Train the backbone's adapter for at most `rl.steps_per_round` steps; `generator` draws the prompts, `report`
    hears of each step. `guard` is asked every GUARD_STEPS steps whether something was lost, and what: then
    those steps are taken back. `knows` is asked whether what is handed on knows enough. `forgotten` is what
    was used up, as a share, of the knowledge that may be lost. It makes only what holds knowledge dearer: all
    KL besides threw policies back that had lost nothing, for what a refused candidate had. `least_entropy` is
    in nats per token; without `drift`, none is charged."""
    a_side, b_side = backbone.lora_parameters()
    optimizer = torch.optim.AdamW(
        [{"params": a_side, "faster": 1.0}, {"params": b_side, "faster": B_FASTER}],
        lr=rl.learning_rate, betas=(MOMENTUM, 0.95), weight_decay=0.0,
    )  # fmt: skip
    result = Improvement()
    start = good = guarded = backbone.snapshot()
    known = True
    boldness = 1.0
    latest: deque[list[Tensor]] = deque(maxlen=AVERAGED)
    for number in range(rl.steps_per_round):
        chosen = _draw(prompts, rl.prompts_per_step, generator)
        rollouts = sampler(chosen)
        result.rollouts.append(rollouts)
        rows = [chosen[rollout.prompt] for rollout in rollouts]
        measured = measure(backbone, rows, [rollout.token_ids for rollout in rollouts])
        kl_B = cost(rollouts, measured)
        raw_B = reward(measured.views)
        if not bool(raw_B.isfinite().all() and kl_B.isfinite().all()):
            backbone.restore(good)
            raise FloatingPointError(f"step {number} met a reward or a KL that is not finite")
        drift_B = torch.zeros_like(raw_B) if drift is None else drift.charge(measured.views, raw_B)
        step = _summary(rollouts, raw_B, kl_B, drift_B)
        report(number, step)
        beyond = None if known else _beyond(step, result.steps, rl.kl_budget, least_entropy)
        known = beyond is not None
        if beyond is not None:
            backbone.restore(good)
            boldness /= 2
            latest.clear()
            result.stopped = beyond
            if boldness < 0.5:
                break
            continue
        result.steps.append(step)
        good = backbone.snapshot()
        unfinished_B = torch.tensor([not rollout.ended for rollout in rollouts])
        rewards_B = raw_B - rl.style_drift_coef * drift_B - rl.no_eos_penalty * unfinished_B
        rewards_PK = rewards_B.view(len(chosen), rl.samples_per_prompt)
        used = step.kl / rl.kl_budget
        samples = Samples(
            rows, rollouts, rewards_PK, measured.base_logprobs, kl_penalty(used, rl),
            HELD * kl_penalty(max(used, forgotten), rl), float(kl_B.mean()),
        )  # fmt: skip
        objective.descend(backbone, samples)
        backbone.group.all_reduce_sum([each.grad for each in backbone.trainable() if each.grad is not None])
        torch.nn.utils.clip_grad_norm_(backbone.trainable(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = boldness * learning_rate(number, rl) * group["faster"]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        release_memory()
        if not all(bool(weight.isfinite().all()) for weight in backbone.trainable()):
            backbone.restore(good)
            raise FloatingPointError(f"step {number} made the adapter's weights not finite")
        if (number + 1) % GUARD_STEPS == 0:
            lost = guard()
            if lost is not None:
                result.stopped = lost
                backbone.restore(guarded)
                latest.clear()
                break
            guarded = backbone.snapshot()
        latest.append(backbone.snapshot())
    if latest:
        backbone.restore([torch.stack(weights).mean(0) for weights in zip(*latest, strict=True)])
        while result.halvings < MOST_HALVINGS and not knows():
            halfway = [(one + two) / 2 for one, two in zip(start, backbone.snapshot(), strict=True)]
            backbone.restore(halfway)
            result.halvings += 1
    result.moved = not all(map(torch.equal, start, backbone.snapshot()))
    return result


def _beyond(step: Step, kept: Sequence[Step], kl_budget: float, least_entropy: float) -> str | None:
    """Which limit a step is beyond, and further than the nearest of those that were kept."""
    if step.kl > max(kl_budget, NOISE * min(each.kl for each in kept)):
        return f"KL of {step.kl:.3f} nats per token is above the budget of {kl_budget}"
    if step.entropy < min(least_entropy, max(each.entropy for each in kept) / NOISE):
        return f"entropy of {step.entropy:.3f} nats per token is below {least_entropy:.3f}"
    return None


def release_memory() -> None:
    """Hand back what glibc keeps of freed memory: batches of ever other shapes fragment it, and a round
    would hold hundreds of megabytes that nothing uses."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def kl_penalty(spent: float, rl: RLSettings) -> float:
    """β, which grows as a budget is used up (a barrier): twofold when 70% is spent, at most fourfold."""
    return rl.kl_coef / max(0.25, 1 - max(spent, 0.0) ** 2)


def learning_rate(step: int, rl: RLSettings) -> float:
    """Up over the warm-up steps, then in a line down to a fifth: the last settle what the first found."""
    if step < rl.warmup_steps:
        return rl.learning_rate * (step + 1) / (rl.warmup_steps + 1)
    left = (rl.steps_per_round - step) / max(1, rl.steps_per_round - rl.warmup_steps)
    return rl.learning_rate * (0.2 + 0.8 * left)


def _draw(prompts: Sequence[list[int]], count: int, generator: torch.Generator) -> list[list[int]]:
    """`count` of the prompts (newest first), the newer half as likely as all the older: weight 1/√rank."""
    weights = torch.arange(1, len(prompts) + 1).rsqrt()
    picks = torch.multinomial(weights, count, replacement=len(prompts) < count, generator=generator)
    return [prompts[index] for index in picks.tolist()]


def _summary(rollouts: Sequence[Rollout], reward_B: Tensor, kl_B: Tensor, drift_B: Tensor) -> Step:
    tokens = sum(len(rollout.token_ids) for rollout in rollouts)
    return Step(
        reward=round(float(reward_B.mean()), 4),
        kl=round(float(kl_B.sum()) / tokens, 4),
        drift=round(float(drift_B.mean()) / 2, 4),
        entropy=round(entropy(rollouts), 4),
        length=round(tokens / len(rollouts), 1),
        ended=round(sum(rollout.ended for rollout in rollouts) / len(rollouts), 3),
    )
