"""EvalSamples are replies that a policy gives to prompts of an evaluation, with their statistics."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch

from trainer.evaluation.estimate import Estimate, Row, jackknife
from trainer.model.backbone import Backbone
from trainer.model.rollouts import Rollout, SamplingSpec, sample
from trainer.reward.features import FeatureGroups, answer_length
from trainer.reward.scoring import kl_to_base, score

SAMPLES_PER_PROMPT = 2
"""Replies that candidate and live policy each sample to an eval prompt."""


@dataclass(frozen=True, slots=True)
class EvalSamples:
    """A policy's replies, prompt by prompt, `per_prompt` to each. For each reply, `ended` tells whether it
    has an end token; `kl_N` is its KL to the base and `entropy_N` its entropy, both in nats; `features` are
    the reward model's; `rollouts` are the replies as they were sampled. `think_ids` are the base's tokens
    that open and close a thought, which does not count as length."""

    token_ids: list[list[int]]
    ended: list[bool]
    kl_N: list[float]
    entropy_N: list[float]
    features: FeatureGroups
    per_prompt: int = SAMPLES_PER_PROMPT
    rollouts: list[Rollout] = field(default_factory=list)
    think_ids: tuple[int, int] | None = None

    @property
    def mean_length(self) -> float:
        """Tokens per reply, without thoughts."""
        return fmean(self.answer_lengths)

    @property
    def answer_lengths(self) -> list[int]:
        """The tokens of each reply behind its thought."""
        return [answer_length(reply, self.think_ids) for reply in self.token_ids]

    @property
    def eos_rate(self) -> float:
        """The share of replies with an end token."""
        return sum(self.ended) / len(self.ended)

    @property
    def kl(self) -> float:
        """The KL to the base, nats per token."""
        return sum(self.kl_N) / sum(map(len, self.token_ids))

    @property
    def entropy(self) -> float:
        """The entropy, nats per token."""
        return sum(self.entropy_N) / sum(map(len, self.token_ids))

    def per_token(self, nats_N: Sequence[float]) -> Estimate:
        """Returns the sum of a quantity of each reply, per token of all replies."""
        rows = list(zip(nats_N, map(len, self.token_ids), strict=True))
        return jackknife(_per_token, self._by_prompt(rows))

    def per_reply(self, values_N: Sequence[float]) -> Estimate:
        """Returns the mean of a quantity of each reply."""
        return jackknife(fmean, self._by_prompt(values_N))

    def of_replies(self, statistic: Callable[[Sequence[list[int]]], float]) -> Estimate:
        """Returns a statistic of the replies' token ids together."""
        return jackknife(statistic, self._by_prompt(self.token_ids))

    def _by_prompt(self, rows: Sequence[Row]) -> list[Sequence[Row]]:
        return [rows[start : start + self.per_prompt] for start in range(0, len(rows), self.per_prompt)]


def _per_token(rows: Sequence[tuple[float, int]]) -> float:
    return sum(nats for nats, _ in rows) / sum(tokens for _, tokens in rows)


def sample_eval(
    backbone: Backbone,
    prompts: Sequence[list[int]],
    spec: SamplingSpec,
    generator: torch.Generator,
    *,
    base: bool = False,
    rollouts: list[Rollout] | None = None,
) -> EvalSamples:
    """Samples replies to each prompt from the current adapter, or from the base, if there are no `rollouts`
    yet, and scores them."""
    if rollouts is None:
        with backbone.reference() if base else contextlib.nullcontext():
            rollouts = sample(backbone, prompts, spec, generator)
    token_ids = [rollout.token_ids for rollout in rollouts]
    asked = [prompts[rollout.prompt] for rollout in rollouts]
    scored = score(backbone, asked, token_ids, temperature=spec.temperature)
    return EvalSamples(
        token_ids,
        [rollout.ended for rollout in rollouts],
        kl_to_base(rollouts, scored).tolist(),
        [-sum(rollout.logprobs) for rollout in rollouts],
        scored.features,
        spec.samples_per_prompt,
        rollouts,
        backbone.think_ids,
    )
