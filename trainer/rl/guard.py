"""The guard keeps a round within limits of KL, entropy and knowledge, and takes back the steps beyond them.

Before each step it checks the statistics of the samples; the KL, most of which a few replies can carry, must
be above its budget by more than a standard error. Beyond a limit it restores the last adapter within it,
once; the second time it ends the round. An adapter that began beyond a limit may come nearer to it. Every
CHECK_INTERVAL steps it asks knowledge questions and ends the round if knowledge was lost. At the end it
averages the adapters of the last steps (Polyak and Juditsky 1992), and halves the KL of the way from the
start while it fails the knowledge check (the backtracking line search of TRPO: Schulman et al. 2015).
"""

from collections import deque
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

from trainer.model.backbone import Backbone
from trainer.model.rollouts import Diverged
from trainer.rl.batch import StepStats

CHECK_INTERVAL = 4
"""Steps from one knowledge check to the next."""

AVERAGED_STEPS = 3
"""Last steps whose adapters are averaged."""

ADAPTER_COPIES = 1 + 1 + 2 + 2 + AVERAGED_STEPS
"""Tensors of the adapter's size: the adapter, its gradient, AdamW's two moments, the guard's two snapshots
and the snapshots that are averaged."""

MAX_HALVINGS = 4
"""Halvings of the KL of a round's way, which grows with the square of the distance."""

SAMPLING_NOISE = 1.1
"""Factor by which the KL of two sets of samples of one policy may differ."""


class KnowledgeCheck(Protocol):
    """The knowledge evaluation that the guard asks (`evaluation.knowledge`)."""

    def guard_failure(self, generator: torch.Generator) -> str | None:
        """Returns why training must stop, if knowledge was lost beyond chance."""
        ...

    def passes(self, generator: torch.Generator) -> bool:
        """Whether the gate would accept the adapter's knowledge."""
        ...


class CheckRecorder:
    """Keeps the results of knowledge checks, in the order in which they are asked, for `RecordedChecks`."""

    def __init__(self, knowledge: KnowledgeCheck) -> None:
        self._knowledge = knowledge
        self.results: list[str | bool | None] = []

    def guard_failure(self, generator: torch.Generator) -> str | None:
        failure = self._knowledge.guard_failure(generator)
        self.results.append(failure)
        return failure

    def passes(self, generator: torch.Generator) -> bool:
        passes = self._knowledge.passes(generator)
        self.results.append(passes)
        return passes


class RecordedChecks:
    """The knowledge checks of a round that is reproduced: their results in the order in which they were
    asked. They raise Diverged where the round asks more of them than before."""

    def __init__(self, results: Iterable[str | bool | None]) -> None:
        self._results = iter(results)
        self._asked = 0

    def guard_failure(self, generator: torch.Generator) -> str | None:
        result = self._next()
        return result if isinstance(result, str) else None

    def passes(self, generator: torch.Generator) -> bool:
        return self._next() is True

    def _next(self) -> str | bool | None:
        self._asked += 1
        for result in self._results:
            return result
        raise Diverged(self._asked * CHECK_INTERVAL)


class Guard:
    """The guard of one round. `kl_budget` is in nats per reply, `min_entropy` in nats per token;
    `knowledge_used` is the share of the allowed knowledge loss that the candidate of the round before had
    used up."""

    def __init__(
        self,
        backbone: Backbone,
        kl_budget: float,
        min_entropy: float = 0.0,
        knowledge: KnowledgeCheck | None = None,
        generator: torch.Generator | None = None,
        knowledge_used: float = 0.0,
    ) -> None:
        self.backbone = backbone
        self.kl_budget = kl_budget
        self.min_entropy = min_entropy
        self.knowledge_used = knowledge_used
        self.steps_back = 0
        self.accepted: list[StepStats] = []
        self.stopped: str | None = None
        self.halvings = 0
        self._knowledge = knowledge
        self._generator = generator or torch.Generator()
        self._start = self._within_limits = self._knowing = backbone.snapshot()
        self._accepted_before = True  # the next samples come from an adapter whose samples were accepted
        self._latest: deque[list[Tensor]] = deque(maxlen=AVERAGED_STEPS)

    def accepts(self, stats: StepStats) -> bool:
        """Checks the samples of the current adapter. If they are beyond a limit, it restores the last adapter
        that was not, whose next samples are accepted whatever chance makes of them."""
        violation = None if self._accepted_before else self.violation(stats)
        if violation is None:
            self.accept(stats)
            return True
        self._accepted_before = True
        self.step_back()
        self.steps_back += 1
        self.stopped = violation
        return False

    def accept(self, stats: StepStats) -> None:
        """Keeps the current adapter, whose samples these are, as the last within the limits."""
        self.accepted.append(stats)
        self._accepted_before = False
        self._within_limits = self.backbone.snapshot()

    @property
    def gives_up(self) -> bool:
        """Whether a smaller learning rate did not help."""
        return self.steps_back > 1

    def step_back(self) -> None:
        """Restores the last adapter whose samples were accepted."""
        self.backbone.restore(self._within_limits)
        self._latest.clear()

    def keeps(self, step: int) -> bool:
        """Checks the adapter after optimizer step number `step`; False ends the round. Raises as
        `check_finite`."""
        self.check_finite(step)
        if (step + 1) % CHECK_INTERVAL == 0 and not self.knows():
            return False
        self._latest.append(self.backbone.snapshot())
        return True

    def check_finite(self, step: int) -> None:
        """Raises FloatingPointError when step number `step` made the adapter's weights not finite."""
        if not all(bool(weight.isfinite().all()) for weight in self.backbone.trainable()):
            self.step_back()
            raise FloatingPointError(f"step {step} made the adapter's weights not finite")

    def knows(self) -> bool:
        """Asks knowledge questions; if knowledge was lost, it restores the last adapter that had it."""
        failure = self._knowledge.guard_failure(self._generator) if self._knowledge else None
        if failure is not None:
            self.stopped = failure
            self.backbone.restore(self._knowing)
            self._latest.clear()
            return False
        self._knowing = self.backbone.snapshot()
        return True

    def finish(self) -> bool:
        """Averages the last adapters and backtracks; returns whether the adapter differs from the start."""
        if self._latest:
            self.backbone.restore([torch.stack(each).mean(0) for each in zip(*self._latest, strict=True)])
            self.backtrack()
        return self.moved

    def backtrack(self) -> None:
        """Halves the KL of the way from the start while the adapter fails the knowledge check."""
        while self.halvings < MAX_HALVINGS and not self.knows_enough():
            pairs = zip(self._start, self.backbone.snapshot(), strict=True)
            self.backbone.restore([torch.lerp(start, end, 0.5**0.5) for start, end in pairs])
            self.halvings += 1

    @property
    def moved(self) -> bool:
        """Whether the adapter differs from the start."""
        return not all(map(torch.equal, self._start, self.backbone.snapshot()))

    def restart(self) -> None:
        """Restores the adapter of the start."""
        self.backbone.restore(self._start)

    def knows_enough(self) -> bool:
        """Whether the gate would accept the adapter's knowledge."""
        return self._knowledge is None or self._knowledge.passes(self._generator)

    def violation(self, stats: StepStats) -> str | None:
        """Returns the limit that a step is beyond, and further than the nearest accepted step."""
        nearest = min(each.kl_per_reply for each in self.accepted)
        if stats.kl_per_reply - stats.kl_error > max(self.kl_budget, SAMPLING_NOISE * nearest):
            kl = f"{stats.kl_per_reply:.2f} ± {stats.kl_error:.2f}"
            return f"KL of {kl} nats per reply is above the budget of {self.kl_budget}"
        highest = max(each.entropy for each in self.accepted)
        if stats.entropy < min(self.min_entropy, highest / SAMPLING_NOISE):
            return f"entropy of {stats.entropy:.3f} nats per token is below {self.min_entropy:.3f}"
        return None
