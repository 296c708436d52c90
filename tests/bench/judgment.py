"""The final judgment knows the taste: a policy's approval, length and KL to the base on held-out prompts."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tests.bench.served_replies import BaseReplies, ServedAt
from tests.bench.tastes import Taste
from trainer.model.backbone import Backbone
from trainer.reward.scoring import micro_batches, score

BEST_OF = 16
"""Replies of the base to each held-out prompt: the best of them is what can be achieved."""

REPLIES = 4
"""Replies of a policy to each held-out prompt."""


@dataclass(frozen=True, slots=True)
class BaseJudgment:
    """The base on the held-out prompts: its approval, how often the best of BEST_OF replies is liked, and the
    mean lengths of its replies and of those that are liked, in tokens; `approval_P` is by prompt."""

    approval: float
    best: float
    length: float
    liked_length: float
    approval_P: list[float]

    def share_of_gain(self, approval: float) -> float:
        """Returns how far a policy came on the way from the base's approval to the best of BEST_OF."""
        return (approval - self.approval) / max(1e-9, self.best - self.approval)

    def share_error(self, policy: "PolicyJudgment") -> float:
        """Returns the standard error of a policy's share of the gain, over prompts."""
        gains = [new - old for new, old in zip(policy.approval_P, self.approval_P, strict=True)]
        spread = statistics.stdev(gains) if len(gains) > 1 else 1.0
        return spread / len(gains) ** 0.5 / max(1e-9, self.best - self.approval)


@dataclass(frozen=True, slots=True)
class PolicyJudgment:
    """A policy on the held-out prompts: its approval, mean reply length (tokens), and KL to the base at the
    temperature of its replies (nats a reply); `approval_P` is by prompt."""

    approval: float
    length: float
    kl: float
    approval_P: list[float]


def judge_base(backbone: Backbone, base: BaseReplies, prompts: Sequence[str], taste: Taste) -> BaseJudgment:
    replies = base.of(prompts, BEST_OF)
    liked = [[taste.likes(backbone.decode(reply)) for reply in of_prompt] for of_prompt in replies]
    verdicts = [verdict for of_prompt in liked for verdict in of_prompt]
    lengths = [len(reply) for of_prompt in replies for reply in of_prompt]
    liked_lengths = [length for length, verdict in zip(lengths, verdicts, strict=True) if verdict]
    return BaseJudgment(
        approval=sum(verdicts) / len(verdicts),
        best=sum(map(any, liked)) / len(liked),
        length=sum(lengths) / len(lengths),
        liked_length=sum(liked_lengths) / max(1, len(liked_lengths)),
        approval_P=[sum(of_prompt) / len(of_prompt) for of_prompt in liked],
    )


def judge_policy(
    backbone: Backbone, served_at: ServedAt, prompts: Sequence[str], taste: Taste
) -> PolicyJudgment:
    """Judges the current adapter."""
    ids = [backbone.render([{"role": "user", "content": prompt}]) for prompt in prompts]
    rollouts = served_at.sample(backbone, ids, REPLIES, torch.Generator().manual_seed(0))
    replies = [rollout.token_ids for rollout in rollouts]
    liked = [taste.likes(backbone.decode(reply)) for reply in replies]
    return PolicyJudgment(
        approval=sum(liked) / len(liked),
        length=sum(map(len, replies)) / len(replies),
        kl=_kl(backbone, [ids[rollout.prompt] for rollout in rollouts], replies, served_at.temperature),
        approval_P=[sum(liked[at : at + REPLIES]) / REPLIES for at in range(0, len(liked), REPLIES)],
    )


@torch.no_grad()
def _kl(backbone: Backbone, prompts: list[list[int]], replies: list[list[int]], temperature: float) -> float:
    """Returns Σ log π − log π_base over a reply's tokens, on average."""
    scored = score(backbone, prompts, replies, temperature=temperature)
    base = sum(sum(logprobs) for logprobs in scored.base_logprobs)
    policy = 0.0
    for rows in micro_batches(backbone, prompts, replies):
        batch = backbone.pad([prompts[row] for row in rows], [replies[row] for row in rows])
        policy += float(backbone.logprobs_BR(batch, temperature).sum())
    return (policy - base) / len(replies)
