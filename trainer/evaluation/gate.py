"""The gate decides whether a candidate policy may be published, and whether it may go live for everybody.

On eval prompts, the candidate is compared with the live policy by three reward models: the one that it was
trained on, one of all held-out votes, and one of the unseen votes among these (`evidence`). It must also not
trade reward for length, missing end tokens, repetition, KL to the base, entropy or knowledge: one function
below for each veto. Every figure has a standard error, which for rewards includes the variance of the reward
model along the direction in which the candidate moved.

The verdict (`verdict`) is refused where a figure is beyond its limit by more than two standard errors. It
passes, and the candidate may go live for everybody, only where the unseen votes show that it is not worse
than the live policy by more than a margin, also without any one rater, network or cluster of raters who
vote alike (`influence`), and no figure is beyond its limit. Otherwise it is unknown, and a share of the
people decides (a canary). It states the smallest difference that it could have detected, and of each figure
what was decided, with the limit that it had. What no votes excuse are constraints (`constraints`): they are
measured apart, and judged alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, tanh
from statistics import fmean

import torch

from schemas.settings import GateSettings, TrainerSettings
from trainer.evaluation import knowledge
from trainer.evaluation.constraints.finding import Finding
from trainer.evaluation.criteria import check_criteria
from trainer.evaluation.estimate import Estimate, increase_of_share, jackknife
from trainer.evaluation.eval_samples import SAMPLES_PER_PROMPT, EvalSamples
from trainer.evaluation.evidence import Evidence
from trainer.evaluation.knowledge import KnowledgeAccuracy
from trainer.evaluation.off_policy import Approval, check_approval
from trainer.evaluation.questions import unjudged
from trainer.evaluation.style_stats import distinct_2, most_common_share, repetition_rate
from trainer.evaluation.verdict import REFUSAL_ERRORS, Check, State, Verdict
from trainer.reward.criteria import CriterionHead
from trainer.reward.ensemble import RewardModel
from trainer.reward.features import FeatureGroups

GUARD_TOLERANCE = 1.25
"""Factor by which the gate's limits of KL and entropy are wider than the guard's: the guard measures before
each step, the gate after the last."""

MAX_COMMON_INCREASE = 0.25
"""Increase over the base of the share of replies, over all eval prompts, that may be the same text."""


@dataclass(frozen=True, slots=True)
class GateSamples:
    """The samples that the gate compares. `base` answers train prompts, with more replies than the others."""

    candidate: EvalSamples
    live: EvalSamples
    base: EvalSamples


@dataclass(frozen=True, slots=True)
class GateModels:
    """The reward models of the gate: `trained` is fitted to the training votes, `held_out` to the held-out
    votes, and `evidence` has the one of the unseen votes. The last two are None when their votes are not
    informative. `criteria` are those of all votes, `approval` the estimate by recorded votes: None where
    there are none."""

    trained: RewardModel
    held_out: RewardModel | None
    evidence: Evidence | None
    criteria: Sequence[CriterionHead] = ()
    approval: Approval | None = None


def evaluate(
    samples: GateSamples,
    models: GateModels,
    accuracy: KnowledgeAccuracy,
    settings: TrainerSettings,
    constraints: Sequence[Finding] = (),
) -> Verdict:
    """Runs every check of the gate on a candidate, of whose constraints these were found."""
    verdict, gate, rl = Verdict(), settings.gate, settings.rl
    check_reward(verdict, "trained", models.trained, samples)
    check_reward(verdict, "held_out", models.held_out, samples)
    check_evidence(verdict, models.evidence, samples, gate.max_reward_loss)
    check_influence(verdict, models.evidence, samples, gate.max_reward_loss)
    check_approval(verdict, models.approval, gate.max_approval_width)
    check_length(verdict, samples, gate)
    check_end_tokens(verdict, samples, gate)
    check_kl(verdict, samples, rl.kl_per_reply)
    check_entropy(verdict, samples, rl.entropy_floor)
    check_repetition(verdict, samples, gate)
    check_distinct_bigrams(verdict, samples, gate)
    check_common_reply(verdict, samples)
    check_knowledge(verdict, accuracy, gate)
    others = {"live": samples.live, "base": samples.base}
    check_criteria(verdict, models.criteria, samples.candidate, others, settings.criteria)
    check_constraints(verdict, constraints)
    return verdict


def check_reward(verdict: Verdict, name: str, model: RewardModel | None, samples: GateSamples) -> None:
    """Refuses a candidate with less reward than the live policy by more than two standard errors."""
    if model is None:
        verdict.figures[f"{name}_gain"] = None
        return
    gain = paired_gain(model, samples.candidate.features, samples.live.features)
    verdict.figures |= {f"{name}_gain": round(gain.value, 4), f"{name}_error": round(gain.error, 4)}
    worse = gain.value + REFUSAL_ERRORS * gain.error < 0
    verdict.checks[f"{name}_gain"] = Check(gain.value, 0.0, gain.error, "refused" if worse else "good")
    verdict.require(
        not worse, f"worse than the live policy by the reward model of the {name} votes ({gain} logits)"
    )


def check_evidence(
    verdict: Verdict, evidence: Evidence | None, samples: GateSamples, max_loss: float
) -> None:
    """Doubts a candidate unless the unseen votes show that it is not worse than the live policy by more than
    `max_loss` logits. States the smallest difference that they could have detected, in logits and, around an
    approval of one half, in points."""
    if evidence is None:
        verdict.figures |= {"unseen_votes": 0, "detectable": None, "detectable_points": None}
        verdict.doubts.append("no unseen votes can judge the candidate, so no difference could be detected")
        return
    gain = paired_gain(evidence.model, samples.candidate.features, samples.live.features)
    points = 100 * tanh(gain.detectable / 4)
    verdict.figures |= {
        "unseen_votes": evidence.votes,
        "unseen_accuracy": round(evidence.accuracy.value, 4),
        "unseen_accuracy_error": round(evidence.accuracy.error, 4),
        "unseen_gain": round(gain.value, 4),
        "unseen_error": round(gain.error, 4),
        "detectable": round(gain.detectable, 4),
        "detectable_points": round(points, 1),
    }
    shown = evidence.beats_chance and gain.lower >= -max_loss
    verdict.checks["unseen_gain"] = Check(
        gain.value, 0 - max_loss, gain.error, "good" if shown else "unknown"
    )
    if not evidence.beats_chance:
        verdict.doubts.append(
            f"the reward model of {evidence.votes} unseen votes ranks the other votes no better than chance"
            f" ({evidence.accuracy})"
        )
    elif not shown:
        verdict.doubts.append(
            f"{evidence.votes} unseen votes do not show that it is no worse than the live policy ({gain}"
            f" logits); they could have shown a difference of {gain.detectable:.2g} logits, {points:.0f}"
            " points of approval"
        )


def check_influence(
    verdict: Verdict, evidence: Evidence | None, samples: GateSamples, max_loss: float
) -> None:
    """Doubts a candidate that would not pass without the votes of one rater, one network or one cluster."""
    if evidence is None or evidence.influence is None:
        verdict.figures["influence"] = None
        return
    candidate, live = samples.candidate.features, samples.live.features
    group, added = evidence.influence.largest(candidate, live, evidence.model)
    gain, raters = paired_gain(evidence.model, candidate, live), evidence.influence.groups[group]
    without = Estimate(gain.value - added, gain.error)
    verdict.figures |= {
        "influence": round(added, 4),
        "influence_raters": len(raters),
        "influence_gain": round(without.value, 4),
    }
    state: State = "good" if without.lower >= -max_loss else "unknown"
    verdict.checks["influence_gain"] = Check(without.value, 0 - max_loss, without.error, state)
    if without.lower < -max_loss <= gain.lower:
        verdict.rests_on = raters
        who = "one rater" if len(raters) == 1 else f"{len(raters)} raters of one network, or who vote alike"
        verdict.doubts.append(
            f"without {who}, the unseen votes do not show that it is no worse than the live policy ({without}"
            " logits)"
        )


def check_length(verdict: Verdict, samples: GateSamples, gate: GateSettings) -> None:
    """Refuses replies much longer or shorter than the base's."""
    length, base = (each.per_reply(each.answer_lengths) for each in (samples.candidate, samples.base))
    ratio = length.value / base.value
    verdict.figures |= {"length": round(length.value, 1), "length_ratio": round(ratio, 3)}
    # The error of a logarithm is the relative error.
    log_ratio = Estimate(log(length.value), length.error / length.value) - Estimate(
        log(base.value), base.error / base.value
    )
    excess = Estimate(abs(log_ratio.value), log_ratio.error) - log(gate.max_length_ratio)
    limit = gate.max_length_ratio if ratio >= 1 else 1 / gate.max_length_ratio
    verdict.limit(
        "length_ratio", ratio, limit, excess * ratio, f"replies {ratio:.2f} times as long as the base's"
    )


def check_end_tokens(verdict: Verdict, samples: GateSamples, gate: GateSettings) -> None:
    """Refuses a candidate that leaves out the end token more often than the base, unless the live policy does
    as often."""
    candidate, base = samples.candidate, samples.base
    verdict.figures |= {"ended": round(candidate.eos_rate, 3), "base_ended": round(base.eos_rate, 3)}
    share, live, of_base = (
        each.per_reply([not ended for ended in each.ended]) for each in (candidate, samples.live, base)
    )
    allowed = Estimate(of_base.value + gate.max_no_eos_increase, of_base.error)
    limit = max(allowed, live, key=lambda each: each.value)
    excess = share - limit
    # Where the replies to all prompts agree, their number still bounds the error.
    counts = [(each.ended.count(False), len(each.ended)) for each in (base, candidate)]
    excess = Estimate(excess.value, max(excess.error, increase_of_share(*counts).error))
    reason = f"only {candidate.eos_rate:.0%} of replies end with an end token"
    verdict.limit("ended", 1 - share.value, 1 - limit.value, excess, reason)


def check_kl(verdict: Verdict, samples: GateSamples, budget: float) -> None:
    """Refuses a KL to the base above the budget, unless the live policy's is as high."""
    candidate, live = (each.per_reply(each.kl_N) for each in (samples.candidate, samples.live))
    limit = max(Estimate(GUARD_TOLERANCE * budget, 0.0), live, key=lambda each: each.value)
    verdict.figures |= {"kl": round(candidate.value, 4), "kl_error": round(candidate.error, 4)}
    reason = f"KL of {candidate} nats per reply is above {limit.value:.2f}"
    verdict.limit("kl", candidate.value, limit.value, candidate - limit, reason)


def check_entropy(verdict: Verdict, samples: GateSamples, floor: float) -> None:
    """Refuses an entropy below `floor` times the base's, unless the live policy's is as low."""
    found, live, base = (
        each.per_token(each.entropy_N) for each in (samples.candidate, samples.live, samples.base)
    )
    limit = min(base * (floor / GUARD_TOLERANCE), live, key=lambda each: each.value)
    verdict.figures |= {"entropy": round(found.value, 4), "base_entropy": round(base.value, 4)}
    reason = f"entropy of {found} nats per token is below {limit.value:.3f}"
    verdict.limit("entropy", found.value, limit.value, limit - found, reason)


def check_repetition(verdict: Verdict, samples: GateSamples, gate: GateSettings) -> None:
    """Refuses replies that repeat their own n-grams more than the base's do."""
    rate = samples.candidate.per_reply([repetition_rate([reply]) for reply in samples.candidate.token_ids])
    base = jackknife(fmean, [[repetition_rate(reply)] for reply in _base_subset(samples)])
    verdict.figures |= {"repeated": round(rate.value, 4), "base_repeated": round(base.value, 4)}
    excess = rate - base - gate.max_repetition_increase
    limit = base.value + gate.max_repetition_increase
    verdict.limit("repeated", rate.value, limit, excess, "replies repeat themselves")


def check_distinct_bigrams(verdict: Verdict, samples: GateSamples, gate: GateSettings) -> None:
    """Refuses a distinct-2 far below the base's, measured on as many replies."""
    share = samples.candidate.of_replies(distinct_2)
    base = jackknife(distinct_2, _base_subset(samples))
    verdict.figures |= {"distinct": round(share.value, 4), "base_distinct": round(base.value, 4)}
    limit = base * gate.min_distinct_ratio
    verdict.limit("distinct", share.value, limit.value, limit - share, "replies have few distinct bigrams")


def check_common_reply(verdict: Verdict, samples: GateSamples) -> None:
    """Refuses mode collapse: the same reply to many prompts."""
    share, base = (each.of_replies(most_common_share) for each in (samples.candidate, samples.base))
    verdict.figures |= {"alike": round(share.value, 4), "base_alike": round(base.value, 4)}
    of_one = Estimate(1 / len(samples.candidate.token_ids), 0.0)  # the least that there can be
    base = max(base, of_one, key=lambda each: each.value)
    excess = share - base - MAX_COMMON_INCREASE
    limit = base.value + MAX_COMMON_INCREASE
    verdict.limit("alike", share.value, limit, excess, "different prompts get the same reply")


def check_knowledge(verdict: Verdict, accuracy: KnowledgeAccuracy, gate: GateSettings) -> None:
    """Refuses a drop in the accuracy on the knowledge questions, against the base, that may exceed the limit
    (`knowledge.within_limit`) and is itself beyond chance; says so if they are too few to see one. This is
    stricter than the other vetoes, because people who vote on a canary do not see what it no longer knows."""
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
    state: State = "good"
    if not knowledge.within_limit(drop, error, gate):
        state = "refused" if drop > REFUSAL_ERRORS * error else "unknown"
        found = verdict.reasons if state == "refused" else verdict.doubts
        found.append(f"accuracy on the knowledge questions fell by {drop:.1%} ± {error:.1%}")
    verdict.checks["knowledge_lost"] = Check(drop, gate.max_knowledge_loss, error, state)


def check_constraints(verdict: Verdict, findings: Sequence[Finding]) -> None:
    """Refuses a candidate that breaks a constraint, and doubts it where that may be chance."""
    if findings:
        verdict.figures["constraints"] = {each.name: each.as_json() for each in findings}
    for each in findings:
        if each.state == "blocked":
            verdict.reasons.append(each.reason)
        elif each.state == "unknown":
            verdict.doubts.append(f"{each.reason}, which may be chance")


def paired_gain(model: RewardModel, candidate: FeatureGroups, live: FeatureGroups) -> Estimate:
    """Returns the candidate's mean gain in reward over the live policy, paired by prompt, in logits of a
    thumb up; the variance is that over prompts plus the reward model's posterior variance."""
    gains = [member.gain(candidate, live) for member in model.members]
    gains_P = torch.stack([gains_N for gains_N, _ in gains], 1).mean(1).view(-1, SAMPLES_PER_PROMPT).mean(1)
    prompt_variance = float(gains_P.var(correction=min(1, len(gains_P) - 1))) / len(gains_P)
    model_variance = sum(variance for _, variance in gains) / len(gains)
    return Estimate(float(gains_P.mean()), (prompt_variance + model_variance) ** 0.5)


def _base_subset(samples: GateSamples) -> list[list[list[int]]]:
    """About as many of the base's replies as the candidate has, each by itself: distinct-2 falls with the
    amount of text."""
    base, candidate = samples.base.token_ids, samples.candidate.token_ids
    return [[reply] for reply in base[:: max(1, len(base) // len(candidate))]]
