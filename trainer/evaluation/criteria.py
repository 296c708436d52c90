"""The gate's check of criteria that may not fall, and what the record says about all of them.

A criterion of a policy is the share of its replies that meet it. The candidate's is compared with the live
policy's on the same prompts, and with the base's, so that it cannot fall little by little. The standard error
has the variance over prompts and what the votes leave open about the criterion (Laplace).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from schemas.settings import CriteriaSettings
from trainer.evaluation.estimate import Estimate
from trainer.evaluation.eval_samples import EvalSamples
from trainer.evaluation.verdict import Verdict
from trainer.reward.criteria import CriterionHead
from trainer.reward.criteria_reward import CriteriaReward


def check_criteria(
    verdict: Verdict,
    heads: Sequence[CriterionHead],
    candidate: EvalSamples,
    others: Mapping[str, EvalSamples],
    settings: CriteriaSettings,
) -> None:
    """Refuses a candidate whose criterion falls, against one of the other policies, by more than `max_fall`
    beyond chance; doubts it where that may be chance, or where too few have said anything to tell."""
    by_name = {head.name: head for head in heads}
    figures: dict[str, dict[str, float]] = {}
    for name in settings.may_not_fall:
        if name not in by_name:
            verdict.doubts.append(f"too few votes say anything about {name!r}, which may not fall")
            continue
        figures[name] = {}
        for other, samples in others.items():
            found = change(by_name[name], candidate, samples)
            figures[name] |= {other: round(found.value, 4), f"{other}_error": round(found.error, 4)}
            verdict.limit(
                f"criteria/{name}/{other}",
                found.value,
                0 - settings.max_fall,
                Estimate(-found.value, found.error) - settings.max_fall,
                f"{-found.value:.1%} ± {found.error:.1%} fewer replies meet {name!r}"
                f" than of the {other} policy",
            )
    if figures:
        verdict.figures["criteria"] = figures


def change(head: CriterionHead, candidate: EvalSamples, other: EvalSamples) -> Estimate:
    """Returns by how much the share of replies that meet the criterion is above another policy's. Replies to
    the same prompts are paired."""
    inputs_NK, others_NK = head.inputs(candidate.features), head.inputs(other.features)
    slope_K = head.slopes(inputs_NK).mean(0) - head.slopes(others_NK).mean(0)
    share_P, other_P = (
        head.shares(inputs).view(-1, samples.per_prompt).mean(1)
        for inputs, samples in ((inputs_NK, candidate), (others_NK, other))
    )
    if (len(share_P), candidate.per_prompt) == (len(other_P), other.per_prompt):
        variance = _variance(share_P - other_P)
    else:
        variance = _variance(share_P) + _variance(other_P)
    value = float(share_P.mean() - other_P.mean())
    return Estimate(value, (variance + head.variance(slope_K)) ** 0.5)


def describe_criteria(
    heads: Sequence[CriterionHead], reward: CriteriaReward, candidate: EvalSamples, live: EvalSamples
) -> dict[str, Any]:
    """Returns for each criterion what it comes from, the shares of the live policy's and of the candidate's
    replies that meet it, their difference with its standard error, and its coefficient in the reward."""
    coefficients = reward.as_json()
    found: dict[str, Any] = {}
    for head in heads:
        difference = change(head, candidate, live)
        before = float(head.shares(head.inputs(live.features)).mean())
        found[head.name] = {
            "praises": head.praises, "blames": head.blames, "people": head.people,
            "live": round(before, 4), "candidate": round(before + difference.value, 4),
            "change": round(difference.value, 4), "error": round(difference.error, 4),
            "coefficient": coefficients.get(head.name),
        }  # fmt: skip
    return found


def _variance(values_P: torch.Tensor) -> float:
    """Returns the variance of the mean."""
    return float(values_P.var(correction=min(1, len(values_P) - 1))) / len(values_P)
