"""Supervised learning on demonstrations is a round's first stage: SFT with early stopping, before RL.

A step is one batch of demonstrations, of whose completions alone the negative log-likelihood is minimised
(Ouyang et al. 2022), within the trust region that RL has. At MAX_CHECKS moments at most the guard looks at
samples of the policy and asks knowledge questions, and the loss on held-out demonstrations is measured. The
stage ends when that loss has not fallen twice in a row, at the guard's limits, or after MAX_EPOCHS, and
keeps the adapter with the lowest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
import torch
from torch import Tensor

from trainer.data.hyperparameters import Hyperparameters
from trainer.model.backbone import Backbone
from trainer.model.progress import Report, report_nothing
from trainer.model.rollouts import Rollout
from trainer.rl.guard import CHECK_INTERVAL, MAX_HALVINGS, Guard
from trainer.rl.objectives import EpochSampler
from trainer.rl.optimizer_step import Optimizer
from trainer.rl.reward_shaping import ShapedReward
from trainer.rl.sampling import Samples
from trainer.rl.schedule import lr_factor
from trainer.rl.scored_samples import ScoredSamples
from trainer.rl.sft import Demonstration, nll, sft_backward

MAX_EPOCHS = 10
"""Most passes through the demonstrations; held-out ones mostly end the stage before."""

BATCH_SIZE = 16
"""Demonstrations of a step."""

MAX_CHECKS = 12
"""Checks of a stage, beside that of its start: each costs as many samples as a step of RL."""

MAX_BACKTRACKS = 4
"""Halvings of ways that led beyond a limit."""

PATIENCE = 2
"""Checks in a row without a lower loss that end the stage."""

KL_SHARE = 0.5
"""Part of the KL budget that the stage may spend, so that RL has the rest."""

log = structlog.get_logger("trainer")


@dataclass(frozen=True, slots=True)
class SupervisedResult:
    """What became of the stage: the loss on held-out demonstrations at each check (nats per token), how many
    steps were taken and how many of them are kept, why it ended before its time, whether the adapter moved,
    the KL to the base at the last check (nats per reply), and the samples of the checks."""

    demonstrations: int
    held_out: int
    held_out_loss: list[float]
    steps: int
    kept_steps: int
    stopped: str | None
    halvings: int
    moved: bool
    kl_per_reply: float
    step_kl: list[float]
    rollouts: list[list[Rollout]] = field(repr=False)

    def as_json(self) -> dict[str, Any]:
        names = [name for name in self.__dataclass_fields__ if name != "rollouts"]
        return {name: getattr(self, name) for name in names}


class SupervisedStage:
    """The stage of one round. `sample` draws from the current policy, for the guard."""

    def __init__(
        self, backbone: Backbone, rl: Hyperparameters, guard: Guard, sample: Callable[[], Samples],
        reward: ShapedReward, report: Report = report_nothing,
    ) -> None:  # fmt: skip
        self._backbone = backbone
        self._rl = rl
        self._guard = guard
        self._sample = sample
        self._reward = reward
        self._report = report
        self._losses: list[float] = []
        self._rollouts: list[list[Rollout]] = []
        self._best: tuple[float, int, list[Tensor]] | None = None
        self._worse = self._backtracks = 0

    def run(
        self, training: Sequence[Demonstration], held_out: Sequence[Demonstration], generator: torch.Generator
    ) -> SupervisedResult:
        """Trains the backbone's adapter; neither part may be empty. Raises FloatingPointError as
        `Guard.check_finite`."""
        per_epoch = -(-len(training) // BATCH_SIZE)
        total = MAX_EPOCHS * per_epoch
        interval = max(CHECK_INTERVAL, -(-total // MAX_CHECKS))
        rl = self._rl.model_copy(update={"steps_per_round": total})
        optimizer = Optimizer(self._backbone, rl, BATCH_SIZE)
        draw = EpochSampler(len(training), min(BATCH_SIZE, len(training)), generator)
        step, stopped = 0, None
        while True:
            self._report("supervised", step, total)
            samples = self._within_limits(optimizer)
            stopped = self._guard.stopped if samples is None else self._check(held_out, step)
            if samples is None or stopped is not None or step == total:
                break
            for _ in range(min(interval, total - step)):
                with optimizer.within_trust_region(samples.prompts, samples.replies, lr_factor(step, rl)):
                    sft_backward(self._backbone, [training[each] for each in draw()], 1.0, rl.temperature)
                    optimizer.step()
                self._guard.check_finite(step)
                step += 1
        return self._finish(len(training), len(held_out), step, stopped, optimizer)

    def _draw(self) -> ScoredSamples:
        samples = ScoredSamples.draw(self._backbone, self._sample, self._reward, self._rl)
        self._rollouts.append(samples.rollouts)
        return samples

    def _within_limits(self, optimizer: Optimizer) -> ScoredSamples | None:
        """Returns samples of the adapter, or of one nearer to the start where the guard does not accept
        them."""
        adapter, samples = self._backbone.snapshot(), self._draw()
        if self._guard.accepts(samples.stats):
            return samples
        optimizer.slow_down()
        return self._back_off(adapter)

    def _back_off(self, beyond: list[Tensor]) -> ScoredSamples | None:
        """Halves the distance to an adapter beyond a limit, from the last one within the limits, until its
        samples are within them (a backtracking line search), and returns these; None when the stage has
        halved as often as it may."""
        within = self._backbone.snapshot()  # which the guard restored
        share = 1.0
        while self._backtracks < MAX_BACKTRACKS:
            self._backtracks += 1
            share /= 2
            self._backbone.restore([torch.lerp(a, b, share) for a, b in zip(within, beyond, strict=True)])
            samples = self._draw()
            if self._guard.violation(samples.stats) is None:
                self._guard.accept(samples.stats)
                return samples
        self._backbone.restore(within)
        return None

    def _check(self, held_out: Sequence[Demonstration], step: int) -> str | None:
        """Checks the adapter after so many steps; returns why the stage ends, or None."""
        if step and not self._guard.knows():
            return self._guard.stopped
        loss = nll(self._backbone, held_out, self._rl.temperature)
        self._losses.append(round(loss, 4))
        if self._backbone.group.is_main:
            log.info("supervised", step=step, held_out_loss=round(loss, 4))
        if self._best is None or loss < self._best[0]:
            self._best, self._worse = (loss, step, self._backbone.snapshot()), 0
            return None
        self._worse += 1
        return "the loss on held-out demonstrations no longer falls" if self._worse == PATIENCE else None

    def _finish(
        self, trained: int, held_out: int, steps: int, stopped: str | None, optimizer: Optimizer
    ) -> SupervisedResult:
        guard, kept = self._guard, 0
        if self._best is not None:
            _, kept, adapter = self._best
            self._backbone.restore(adapter)
        if kept:
            guard.backtrack()
            if guard.halvings == MAX_HALVINGS and not guard.knows_enough():
                guard.restart()
                stopped = "the demonstrations cost more knowledge than the gate allows"
        return SupervisedResult(
            trained, held_out, self._losses, steps, kept, stopped, guard.halvings, guard.moved,
            guard.accepted[-1].kl_per_reply, optimizer.trust_region.step_kl, self._rollouts,
        )  # fmt: skip
