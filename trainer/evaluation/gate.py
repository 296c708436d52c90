"""What a candidate must pass before anyone sees it. Every verdict carries its figures.

On prompts that were held out it must not be worse than the live policy, neither by the reward model that
it was trained on nor by another, fitted to the votes that were held out with the prompts; and it must not
have paid for its gain with length, endless or repeated replies, distance from the base, or knowledge.

A fold of votes is small and so are a round's gains: a candidate fails a comparison when it is worse by more
than twice the comparison's standard error, which the figures give (a limit of once would lose one in six
candidates that are no worse). The error counts how little the votes tell of the direction that the candidate
went, which the disagreement of members fitted to the same few votes does not. Held-out votes may have shaped
an ancestor of the candidate in an earlier round; the record's `held_out_unseen` says how many have not.
Knowledge is the other way round: that no more was lost than allowed must be likely, by one standard error.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch

from schemas.settings import GateSettings, RLSettings
from trainer.evaluation import knowledge
from trainer.model.backbone import Backbone
from trainer.model.rollouts import entropy, sample
from trainer.reward.ensemble import RewardModel
from trainer.reward.features import Views
from trainer.reward.scoring import cost, measure

REPLIES = 2
"""Replies of candidate and live policy to each held-out prompt."""

SLACK = 1.25
"""The guard looks before a step and the gate after the last: KL and entropy may be so much further off here,
or where the live policy is already."""

MOST_ALIKE = 0.25
"""Share of the replies to different prompts that may be the same text."""


@dataclass(frozen=True, slots=True)
class Answers:
    """A policy's replies to the held-out prompts, prompt by prompt, and what the base makes of them."""

    token_ids: list[list[int]]
    ended: float
    kl: float
    entropy: float
    views: Views

    @property
    def length(self) -> float:
        return sum(map(len, self.token_ids)) / len(self.token_ids)


@dataclass
class Verdict:
    """`reasons` is empty when the candidate passed."""

    figures: dict[str, Any] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.reasons

    def require(self, condition: bool, reason: str) -> None:
        if not condition:
            self.reasons.append(reason)

    def as_json(self) -> dict[str, Any]:
        return {"passed": self.passed, "reasons": self.reasons, "figures": self.figures}


def answer(
    backbone: Backbone,
    prompts: Sequence[list[int]],
    replies: int,
    max_tokens: int,
    generator: torch.Generator,
    *,
    of_base: bool = False,
) -> Answers:
    """`replies` replies to each prompt, of the adapter as it is now or of the base."""
    with backbone.reference() if of_base else backbone.merged():
        rollouts = sample(backbone, prompts, replies, max_tokens, generator)
    token_ids = [rollout.token_ids for rollout in rollouts]
    measured = measure(backbone, [prompts[rollout.prompt] for rollout in rollouts], token_ids)
    return Answers(
        token_ids,
        sum(rollout.ended for rollout in rollouts) / len(rollouts),
        float(cost(rollouts, measured).sum()) / sum(map(len, token_ids)),
        entropy(rollouts),
        measured.views,
    )


def judge(
    candidate: Answers,
    live: Answers,
    base: Answers,
    trained: RewardModel,
    held_out: RewardModel | None,
    knows: tuple[Sequence[float], Sequence[float]],
    gate: GateSettings,
    rl: RLSettings,
) -> Verdict:
    """`held_out` is None when the held-out votes say nothing; `knows` is how well the candidate and the base
    answer each probe, empty without probes."""
    verdict = Verdict()
    figures = verdict.figures
    for name, model in (("trained", trained), ("held_out", held_out)):
        if model is None:
            figures[f"{name}_gain"] = None
            continue
        gain, error = compare(model, candidate.views, live.views)
        figures |= {f"{name}_gain": round(gain, 4), f"{name}_error": round(error, 4)}
        verdict.require(
            gain + 2 * error >= 0,
            f"worse than the live policy by the {name} votes ({gain:+.3f} ± {error:.3f})",
        )

    ratio = candidate.length / base.length
    figures |= {"length": round(candidate.length, 1), "length_ratio": round(ratio, 3)}
    verdict.require(
        1 / gate.length_ratio <= ratio <= gate.length_ratio,
        f"replies {ratio:.2f} times as long as the base's",
    )
    figures |= {"ended": round(candidate.ended, 3), "base_ended": round(base.ended, 3)}
    verdict.require(
        candidate.ended >= base.ended - gate.unended_gain,
        f"only {candidate.ended:.0%} of replies end by themselves",
    )
    figures |= {"kl": round(candidate.kl, 4), "entropy": round(candidate.entropy, 4)}
    figures["base_entropy"] = round(base.entropy, 4)
    most = max(SLACK * rl.kl_budget, live.kl)
    verdict.require(candidate.kl <= most, f"KL of {candidate.kl:.3f} nats per token is above {most:.3f}")
    least = min(rl.entropy_floor * base.entropy / SLACK, live.entropy)
    verdict.require(
        candidate.entropy >= least, f"entropy of {candidate.entropy:.3f} nats per token is below {least:.3f}"
    )

    as_many = base.token_ids[:: max(1, len(base.token_ids) // len(candidate.token_ids))]
    for prefix, replies in (("", candidate.token_ids), ("base_", as_many)):
        figures |= {
            f"{prefix}repeated": round(repeated(replies), 4),
            f"{prefix}distinct": round(distinct(replies), 4),
        }
    figures["alike"] = round(alike(candidate.token_ids), 4)
    verdict.require(
        figures["repeated"] <= figures["base_repeated"] + gate.repetition_gain, "replies repeat themselves"
    )
    verdict.require(
        figures["distinct"] >= gate.distinct_ratio * figures["base_distinct"],
        "replies use few different word pairs",
    )
    verdict.require(
        figures["alike"] <= alike(base.token_ids) + MOST_ALIKE, "different prompts get the same reply"
    )

    after, before = knows
    figures["probes"] = len(before)
    if before:
        lost, error = knowledge.loss(before, after)
        figures |= {"knowledge": round(sum(after) / len(after), 4)}
        figures |= {"knowledge_lost": round(lost, 4), "knowledge_error": round(error, 4)}
        verdict.require(
            knowledge.enough(lost, error, gate), f"{lost:.1%} ± {error:.1%} of the probes are known no more"
        )
    return verdict


def compare(model: RewardModel, candidate: Views, live: Views) -> tuple[float, float]:
    """The candidate's mean gain over the live policy, in logits of a thumb up, prompt by prompt, and its
    standard error: of the prompts asked, and of what the votes leave open."""
    found = [member.gain(candidate, live) for member in model.members]
    gains_P = torch.stack([gains_N for gains_N, _ in found], 1).mean(1).view(-1, REPLIES).mean(1)
    of_prompts = float(gains_P.var(correction=min(1, len(gains_P) - 1))) / len(gains_P)
    of_votes = sum(variance for _, variance in found) / len(found)
    return float(gains_P.mean()), (of_prompts + of_votes) ** 0.5


def repeated(replies: Sequence[Sequence[int]], size: int = 4) -> float:
    """Share of a reply's runs of `size` tokens that it has said before, on average over the replies."""
    shares = []
    for reply in replies:
        runs = [tuple(reply[start : start + size]) for start in range(len(reply) - size + 1)]
        shares.append(1 - len(set(runs)) / len(runs) if runs else 0.0)
    return sum(shares) / len(shares)


def distinct(replies: Sequence[Sequence[int]]) -> float:
    """Different pairs of neighbouring tokens as a share of all, over the replies together (distinct-2:
    Li et al. 2016)."""
    pairs = [pair for reply in replies for pair in pairwise(reply)]
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def alike(replies: Sequence[Sequence[int]]) -> float:
    """Share of the replies that are the most common reply."""
    return Counter(map(tuple, replies)).most_common(1)[0][1] / len(replies)
