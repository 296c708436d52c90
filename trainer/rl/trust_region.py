"""The trust region limits the KL of each optimizer step to the policy before it (TRPO: Schulman et al. 2015).

How far a learning rate moves a policy depends on the model, its depth and its replies, so no rate suits every
model. After each step the KL is measured on some of the step's replies. A step beyond the limit is shortened,
and the learning rate follows the measured KL, which grows with its square. The next round starts with the
rate that this one found.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.data.hyperparameters import Hyperparameters
from trainer.model.backbone import Backbone
from trainer.model.batch import PaddedBatch
from trainer.reward.scoring import micro_batches

MEASURED_TOKENS, MIN_REPLIES, MAX_REPLIES = 1024, 4, 16
"""Tokens of a step's replies on which the KL is measured, in so many replies at least and at most."""

EVIDENCE = 128
"""Samples of a step, replayed ones included, that may spend all of `rl.step_kl`. Fewer may spend as much
less, since more of their gradient is noise, and noise costs KL for nothing."""

TOLERANCE = 2.0
"""Factor by which a step may exceed the limit before it is shortened: the measurement is noisy."""

GROWTH, SHRINKAGE = 1.25, 0.25
"""Bounds of the factor by which the learning rate changes after a step."""


class TrustRegion:
    """The trust region of one round: the peak learning rate as found so far, and the KL of each step before
    it was shortened, nats per reply. A step learns from `samples` replies."""

    def __init__(self, backbone: Backbone, rl: Hyperparameters, samples: int) -> None:
        self.learning_rate = rl.learning_rate
        self.step_kl: list[float] = []
        self._backbone = backbone
        self._rl = rl
        self._limit = rl.step_kl * min(1.0, samples / EVIDENCE)
        self._start: list[Tensor] = []
        self._batches: list[PaddedBatch] = []
        self._before: list[Tensor] = []

    def begin(self, prompts: Sequence[list[int]], replies: Sequence[list[int]]) -> None:
        """Remembers the policy before a step, by replies of its own, each with its prompt."""
        mean_length = sum(map(len, replies)) / len(replies)
        measured = min(MAX_REPLIES, max(MIN_REPLIES, round(MEASURED_TOKENS / mean_length)))
        chosen = range(0, len(replies), -(-len(replies) // measured))
        prompts, replies = [prompts[row] for row in chosen], [replies[row] for row in chosen]
        self._batches = [
            self._backbone.pad([prompts[row] for row in rows], [replies[row] for row in rows])
            for rows in micro_batches(self._backbone, prompts, replies)
        ]
        self._before = self._logprobs()
        self._start = self._backbone.snapshot()

    def end(self, factor: float) -> None:
        """Measures a step made with `factor` times the learning rate; shortens it if it went too far."""
        limit = self._limit * factor**2
        kl = self._kl()
        ratio = (limit / max(kl, 1e-9)) ** 0.5
        if kl > TOLERANCE * limit:
            after = self._backbone.snapshot()
            self._backbone.restore([torch.lerp(a, b, ratio) for a, b in zip(self._start, after, strict=True)])
        self.learning_rate *= min(GROWTH, max(SHRINKAGE, ratio))
        self.step_kl.append(round(kl, 4))

    def _kl(self) -> float:
        """Returns an unbiased, non-negative estimate of KL(old‖new): Σ over tokens of ρ − 1 − log ρ, with ρ
        the ratio of new to old probability (Schulman 2020, the estimator k3)."""
        replies, total = sum(map(len, self._before)), 0.0
        for after_BR, before_BR in zip(self._logprobs(), self._before, strict=True):
            log_ratio_BR = after_BR - before_BR
            total += float((log_ratio_BR.exp() - 1 - log_ratio_BR).sum())
        return total / replies

    @torch.no_grad()
    def _logprobs(self) -> list[Tensor]:
        """Returns the (B, R) log-probabilities of each batch. In bfloat16 the rounding of large logits alone
        would measure as a quarter of a nat per reply."""
        with self._backbone.full_precision():
            return [self._backbone.logprobs_BR(batch, self._rl.temperature) for batch in self._batches]
