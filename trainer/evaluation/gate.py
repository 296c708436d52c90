"""The gate decides whether a candidate policy may be published; its verdict records every figure.

On eval prompts, the candidate must not be worse than the live policy, neither by the reward model that it was
trained on nor by a reward model fitted to the held-out votes. It must also not trade reward for length,
missing end tokens, repetition, KL to the base, entropy or knowledge: one function below for each veto.

A round's held-out fold of votes is small, so a reward comparison fails only when the candidate is worse by
more than two standard errors (a limit of one would refuse one in six candidates that are no worse). The
standard error includes the variance of the reward model along the direction in which the candidate moved,
which the disagreement of ensemble members fitted to the same few votes does not. Held-out votes may have
trained an ancestor of the candidate in an earlier round; `held_out_unseen` in the round's record counts the
others. The knowledge check is stricter: the accuracy drop plus one standard error must be within the limit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from schemas.settings import GateSettings, TrainerSettings
from trainer.evaluation import knowledge
from trainer.evaluation.knowledge import KnowledgeAccuracy
from trainer.evaluation.questions import unjudged
from trainer.evaluation.style_stats import distinct_2, most_common_share, repetition_rate
from trainer.model.backbone import Backbone
from trainer.model.rollouts import SamplingSpec, entropy, sample
from trainer.reward.ensemble import RewardModel
from trainer.reward.features import FeatureGroups
from trainer.reward.scoring import kl_to_base, score

SAMPLES_PER_PROMPT = 2
"""Replies that candidate and live policy each sample to an eval prompt."""

GUARD_TOLERANCE = 1.25
"""Factor by which the gate's limits of KL and entropy are wider than the guard's: the guard measures before
each step, the gate after the last."""

MAX_COMMON_INCREASE = 0.25
"""Increase over the base of the share of replies, over all eval prompts, that may be the same text."""


@dataclass(frozen=True, slots=True)
class EvalSamples:
    """A policy's replies to the eval prompts, prompt by prompt, with their statistics: `eos_rate` is the
    share that ended with an end token, `kl` the KL to the base and `entropy` the entropy (both nats per
    token), `features` the reward model's features of the replies."""

    token_ids: list[list[int]]
    eos_rate: float
    kl: float
    entropy: float
    features: FeatureGroups

    @property
    def mean_length(self) -> float:
        """Tokens per reply."""
        return sum(map(len, self.token_ids)) / len(self.token_ids)


@dataclass(frozen=True, slots=True)
class GateSamples:
    """The samples that the gate compares. `base` answers train prompts, with more replies than the others."""

    candidate: EvalSamples
    live: EvalSamples
    base: EvalSamples


@dataclass(frozen=True, slots=True)
class GateModels:
    """The reward models of the gate: `trained` is fitted to the training votes, `held_out` to the held-out
    votes (None when these are not informative)."""

    trained: RewardModel
    held_out: RewardModel | None


@dataclass
class Verdict:
    """The gate's decision with its figures; `reasons` is empty when the candidate passed."""

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


def sample_eval(
    backbone: Backbone,
    prompts: Sequence[list[int]],
    spec: SamplingSpec,
    generator: torch.Generator,
    *,
    base: bool = False,
) -> EvalSamples:
    """Samples replies to each prompt from the current adapter, or from the base, and scores them."""
    with backbone.reference() if base else backbone.merged():
        rollouts = sample(backbone, prompts, spec, generator)
    token_ids = [rollout.token_ids for rollout in rollouts]
    scored = score(backbone, [prompts[rollout.prompt] for rollout in rollouts], token_ids)
    return EvalSamples(
        token_ids,
        sum(rollout.ended for rollout in rollouts) / len(rollouts),
        float(kl_to_base(rollouts, scored).sum()) / sum(map(len, token_ids)),
        entropy(rollouts),
        scored.features,
    )


def evaluate(
    samples: GateSamples, models: GateModels, accuracy: KnowledgeAccuracy, settings: TrainerSettings
) -> Verdict:
    """Runs every check of the gate on a candidate."""
    verdict, gate, rl = Verdict(), settings.gate, settings.rl
    check_reward(verdict, "trained", models.trained, samples)
    check_reward(verdict, "held_out", models.held_out, samples)
    check_length(verdict, samples, gate)
    check_end_tokens(verdict, samples, gate)
    check_kl(verdict, samples, rl.kl_budget)
    check_entropy(verdict, samples, rl.entropy_floor)
    check_repetition(verdict, samples, gate)
    check_distinct_bigrams(verdict, samples, gate)
    check_common_reply(verdict, samples)
    check_knowledge(verdict, accuracy, gate)
    return verdict


def check_reward(verdict: Verdict, name: str, model: RewardModel | None, samples: GateSamples) -> None:
    """Refuses a candidate with less reward than the live policy by more than two standard errors."""
    if model is None:
        verdict.figures[f"{name}_gain"] = None
        return
    gain, error = paired_gain(model, samples.candidate.features, samples.live.features)
    verdict.figures |= {f"{name}_gain": round(gain, 4), f"{name}_error": round(error, 4)}
    verdict.require(
        gain + 2 * error >= 0,
        f"worse than the live policy by the reward model of the {name} votes ({gain:+.3f} ± {error:.3f})",
    )


def check_length(verdict: Verdict, samples: GateSamples, gate: GateSettings) -> None:
    """Refuses replies much longer or shorter than the base's."""
    length = samples.candidate.mean_length
    ratio = length / samples.base.mean_length
    verdict.figures |= {"length": round(length, 1), "length_ratio": round(ratio, 3)}
    verdict.require(
        1 / gate.max_length_ratio <= ratio <= gate.max_length_ratio,
        f"replies {ratio:.2f} times as long as the base's",
    )


def check_end_tokens(verdict: Verdict, samples: GateSamples, gate: GateSettings) -> None:
    """Refuses a candidate that leaves out the end token more often than the base."""
    rate, base = samples.candidate.eos_rate, samples.base.eos_rate
    verdict.figures |= {"ended": round(rate, 3), "base_ended": round(base, 3)}
    verdict.require(
        rate >= base - gate.max_no_eos_increase, f"only {rate:.0%} of replies end with an end token"
    )


def check_kl(verdict: Verdict, samples: GateSamples, budget: float) -> None:
    """Refuses a KL to the base above the budget, unless the live policy's is as high."""
    kl, limit = samples.candidate.kl, max(GUARD_TOLERANCE * budget, samples.live.kl)
    verdict.figures["kl"] = round(kl, 4)
    verdict.require(kl <= limit, f"KL of {kl:.3f} nats per token is above {limit:.3f}")


def check_entropy(verdict: Verdict, samples: GateSamples, floor: float) -> None:
    """Refuses an entropy below `floor` times the base's, unless the live policy's is as low."""
    found, base = samples.candidate.entropy, samples.base.entropy
    limit = min(floor * base / GUARD_TOLERANCE, samples.live.entropy)
    verdict.figures |= {"entropy": round(found, 4), "base_entropy": round(base, 4)}
    verdict.require(found >= limit, f"entropy of {found:.3f} nats per token is below {limit:.3f}")


def check_repetition(verdict: Verdict, samples: GateSamples, gate: GateSettings) -> None:
    """Refuses replies that repeat their own n-grams more than the base's do."""
    rate = round(repetition_rate(samples.candidate.token_ids), 4)
    base = round(repetition_rate(_base_subset(samples)), 4)
    verdict.figures |= {"repeated": rate, "base_repeated": base}
    verdict.require(rate <= base + gate.max_repetition_increase, "replies repeat themselves")


def check_distinct_bigrams(verdict: Verdict, samples: GateSamples, gate: GateSettings) -> None:
    """Refuses a distinct-2 far below the base's, measured on as many replies."""
    share = round(distinct_2(samples.candidate.token_ids), 4)
    base = round(distinct_2(_base_subset(samples)), 4)
    verdict.figures |= {"distinct": share, "base_distinct": base}
    verdict.require(share >= gate.min_distinct_ratio * base, "replies have few distinct bigrams")


def check_common_reply(verdict: Verdict, samples: GateSamples) -> None:
    """Refuses mode collapse: the same reply to many prompts."""
    share = most_common_share(samples.candidate.token_ids)
    verdict.figures["alike"] = round(share, 4)
    limit = most_common_share(samples.base.token_ids) + MAX_COMMON_INCREASE
    verdict.require(verdict.figures["alike"] <= limit, "different prompts get the same reply")


def check_knowledge(verdict: Verdict, accuracy: KnowledgeAccuracy, gate: GateSettings) -> None:
    """Refuses a drop in the accuracy on the knowledge questions, against the base; says so if they are too
    few to see one."""
    verdict.figures["probes"] = len(accuracy.base)
    if (reason := unjudged(len(accuracy.base))) is not None:
        verdict.figures["knowledge_unknown"] = reason
        return
    drop, error = knowledge.accuracy_drop(accuracy.base, accuracy.candidate)
    verdict.figures |= {
        "knowledge": round(sum(accuracy.candidate) / len(accuracy.candidate), 4),
        "knowledge_lost": round(drop, 4),
        "knowledge_error": round(error, 4),
    }
    verdict.require(
        knowledge.within_limit(drop, error, gate),
        f"accuracy on the knowledge questions fell by {drop:.1%} ± {error:.1%}",
    )


def paired_gain(model: RewardModel, candidate: FeatureGroups, live: FeatureGroups) -> tuple[float, float]:
    """Returns the candidate's mean gain in reward over the live policy, paired by prompt, in logits of a
    thumb up, and its standard error: the variance over prompts plus the reward model's posterior variance."""
    gains = [member.gain(candidate, live) for member in model.members]
    gains_P = torch.stack([gains_N for gains_N, _ in gains], 1).mean(1).view(-1, SAMPLES_PER_PROMPT).mean(1)
    prompt_variance = float(gains_P.var(correction=min(1, len(gains_P) - 1))) / len(gains_P)
    model_variance = sum(variance for _, variance in gains) / len(gains)
    return float(gains_P.mean()), (prompt_variance + model_variance) ** 0.5


def _base_subset(samples: GateSamples) -> list[list[int]]:
    """About as many of the base's replies as the candidate has: distinct-2 falls with the amount of text."""
    base, candidate = samples.base.token_ids, samples.candidate.token_ids
    return base[:: max(1, len(base) // len(candidate))]
