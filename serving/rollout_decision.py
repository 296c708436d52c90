"""A rollout's decision: promote its candidate, roll it back, end it without a verdict, or go on.

It follows from the evidence alone, by confidence sequences, so it may be taken after every vote. The error of
5% of a false rollback is split over the metrics (Bonferroni), that of a false promotion is not: a promotion
needs all of them. Both are errors of one trial, however many came before it, and one candidate is tried at a
time: what a worse one loses times its chance of promotion is small, whatever it loses, and a level that all
candidates share would leave small services without verdicts (`docs/gate-and-rollouts.md`).

It ends where people do not arrive in the shares in which they are sent, as something other than the policy
then differs. It is rolled back where the candidate is shown to be worse by more than a metric's limit. It is
promoted where it is shown to be better, or to have lost less than the margin, and every other metric is known
and within its limit. Where nothing is shown, it ends after MOST_PEOPLE or LONGEST, or for a newer candidate
that has learned from twice as many votes: evidence begins anew with each, so it must not begin at each round.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from math import exp, log
from typing import Any, Literal

from serving.comparison import Comparison
from serving.confidence_sequence import log_evidence, radius

Action = Literal["wait", "advance", "promote", "rollback", "end"]
Mode = Literal["direct", "canary", "duel"]

PROMOTION_ERROR = 0.05
"""Chance that a policy that is worse by the margin is ever promoted by its trial."""

MISMATCH_ERROR = 0.001
"""Chance that a stage is ever said to have a sample-ratio mismatch in error."""

MIN_PEOPLE = 10
"""People with votes on each side, below whom nothing is decided."""

MOST_PEOPLE = 3_000
"""People with votes on the candidate, at whom a rollout without a decision ends."""

LONGEST = timedelta(days=14)
"""Longest time of a rollout without a decision."""

STAGE_PEOPLE = 5
"""People whom a candidate answers before its share grows."""

STAGE_TIME = timedelta(minutes=10)
"""Time before a share grows."""

STAGE_LONGEST = timedelta(days=1)
"""Time after which a share grows, however few have come."""

DRIFT = 0.05
"""Approval that may differ between two times by itself, share: a policy that went live at once is compared
with the one before it."""


@dataclass(frozen=True, slots=True)
class Metric:
    """`better` is 1 where more is better, -1 where less is, 0 where the candidate should be alike. It is
    harmed where it is shown, with an error of `alpha`, to be worse by more than `limit`; `scale` is the
    difference that is looked for."""

    better: Literal[-1, 0, 1]
    limit: float
    alpha: float
    scale: float

    def shortfall(self, difference: float) -> float:
        """Returns by how much a difference is on the wrong side."""
        return -self.better * difference if self.better else abs(difference)


METRICS: Mapping[str, Metric] = {
    "approval": Metric(1, 0.0, 0.042, 0.08),
    "wins": Metric(1, 0.0, 0.042, 0.04),
    "holdback": Metric(1, 0.0, 0.002, 0.08),
    "regenerations": Metric(-1, 0.02, 0.0012, 0.1),
    "errors": Metric(-1, 0.01, 0.0012, 0.1),
    "latency": Metric(-1, log(2), 0.0012, 0.3),
    "length": Metric(0, log(2), 0.0012, 0.3),
}
"""Share of thumbs up; share of duels won, ties half; approval against the base's; share of replies that
people asked for anew; share of requests that failed; logarithm of the seconds to the end of a reply, and of
its tokens. A rollout has either approval or wins. The length may be wrong on either side, each with
`alpha`."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a rollout has shown so far. `comparisons` is by metric; a metric without data has None.
    `mismatch` is the logarithm of the evidence of a sample-ratio mismatch. `stage_people` are those whom the
    candidate has answered in this stage."""

    mode: Mode
    candidate: str
    live: str
    comparisons: Mapping[str, Comparison | None]
    mismatch: float = 0.0
    age: timedelta = timedelta()
    stage_age: timedelta = timedelta()
    stage_people: int = 0

    @property
    def quality(self) -> str:
        """Returns the name of the metric that a promotion needs."""
        return "wins" if self.mode == "duel" else "approval"

    @property
    def voters(self) -> int:
        """Returns the people with votes on the candidate."""
        found = self.comparisons.get(self.quality)
        return found.people if found else 0


@dataclass(frozen=True, slots=True)
class Rules:
    """`margin` is the approval that a promoted policy may at most have lost, share. `newer` tells whether a
    newer candidate waits that has learned from twice as many votes, `last_stage` that the share does not grow
    any more."""

    margin: float = 0.0
    newer: bool = False
    last_stage: bool = True


def decide(evidence: Evidence, rules: Rules) -> tuple[Action, str]:
    """Returns what to do, and why."""
    if evidence.mismatch >= -log(MISMATCH_ERROR):
        return "end", "people do not arrive in the shares in which they are sent (a sample-ratio mismatch)"
    for name, comparison in evidence.comparisons.items():
        if comparison is not None and _harmed(name, comparison, evidence.mode):
            return "rollback", _worse(name, comparison, evidence)
    if evidence.mode == "direct":
        ended = evidence.voters >= MOST_PEOPLE or evidence.age > LONGEST
        return ("end", "people have not shown that it is worse") if ended else ("wait", "")
    if _shown_good(evidence, rules.margin):
        return "promote", _good(evidence, rules.margin)
    if rules.newer:
        seen = f"{evidence.voters} people showed nothing"
        return "end", f"a candidate from twice as many votes takes its place; {seen}"
    if evidence.voters >= MOST_PEOPLE or evidence.age > LONGEST:
        return "end", f"{evidence.voters} people showed no difference to {evidence.live}"
    if not rules.last_stage and _stage_is_over(evidence):
        return "advance", ""
    return "wait", ""


def _stage_is_over(evidence: Evidence) -> bool:
    seen = evidence.stage_people >= STAGE_PEOPLE and evidence.stage_age >= STAGE_TIME
    return seen or evidence.stage_age >= STAGE_LONGEST


def limit_of(name: str, mode: Mode) -> float:
    """Returns the difference up to which a metric may be worse."""
    drifts = mode == "direct" and name == "approval"
    return METRICS[name].limit + (DRIFT if drifts else 0.0)


def interval(name: str, comparison: Comparison) -> tuple[float, float]:
    """Returns the bounds of the difference that hold at all times, with the metric's own error on each
    side."""
    if comparison.error == 0:
        return comparison.difference, comparison.difference
    half = radius(comparison.error, METRICS[name].alpha, METRICS[name].scale)
    return comparison.difference - half, comparison.difference + half


def figures(evidence: Evidence) -> dict[str, Any]:
    """Returns every figure that the decision rests on, for the record."""
    shown = {}
    for name, found in evidence.comparisons.items():
        if found is None:
            continue
        low, high = interval(name, found)
        shown[name] = {
            "candidate": round(found.candidate, 4),
            "other": round(found.other, 4),
            "difference": round(found.difference, 4),
            "error": round(found.error, 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "people": found.people,
            "other_people": found.other_people,
            "limit": round(limit_of(name, evidence.mode), 4),
            "alpha": METRICS[name].alpha,
            "harmed": _harmed(name, found, evidence.mode),
        }
    return shown


def _harmed(name: str, comparison: Comparison, mode: Mode) -> bool:
    metric = METRICS[name]
    distance = metric.shortfall(comparison.difference) - limit_of(name, mode)
    return (
        comparison.least_people >= MIN_PEOPLE
        and comparison.error > 0
        and distance > 0
        and log_evidence(distance, comparison.error, metric.scale) >= -log(metric.alpha)
    )


def _shown_good(evidence: Evidence, margin: float) -> bool:
    """Returns whether the candidate is shown to be better, or to have lost less than the margin, and no other
    metric stands beyond its limit. Where a metric has no data, it is not. A point of approval is half a point
    of wins: the reply that is not liked may tie."""
    quality = evidence.comparisons.get(evidence.quality)
    if quality is None or quality.least_people < MIN_PEOPLE or quality.error == 0:
        return False
    for name, found in evidence.comparisons.items():
        if name in (evidence.quality, "holdback"):
            continue
        if found is None or METRICS[name].shortfall(found.difference) > METRICS[name].limit:
            return False
    lead = quality.difference + (margin / 2 if evidence.mode == "duel" else margin)
    scale = METRICS[evidence.quality].scale
    return lead > 0 and log_evidence(lead, quality.error, scale) >= -log(PROMOTION_ERROR)


_WORSE = {
    "approval": "people like it less than {other}: {a:.0%} of {n} people against {b:.0%} of {m}",
    "wins": "people prefer {other}: it won {a:.0%} of the duels of {n} people",
    "holdback": "people like it less than the base: {a:.0%} of {n} people against {b:.0%} of {m}",
    "regenerations": "people ask for another reply more often: {a:.1%} against {b:.1%}",
    "errors": "its requests fail more often: {a:.1%} against {b:.1%}",
    "latency": "its replies take longer: {ratio:.1f} times the seconds",
    "length": "its replies have another length: {ratio:.1f} times the tokens",
}


def _worse(name: str, found: Comparison, evidence: Evidence) -> str:
    return _WORSE[name].format(
        other=evidence.live,
        a=found.candidate,
        b=found.other,
        n=found.people,
        m=found.other_people,
        ratio=exp(found.difference),
    )


def _good(evidence: Evidence, margin: float) -> str:
    found = evidence.comparisons[evidence.quality]
    assert found is not None  # noqa: S101  (it was shown good)
    than = f"better than {evidence.live}" if not margin else f"no worse than {evidence.live} by {margin:.0%}"
    if evidence.mode == "duel":
        return f"people find it {than}: it won {found.candidate:.0%} of the duels of {found.people} people"
    return (
        f"people find it {than}: {found.candidate:.0%} of {found.people} people against {found.other:.0%}"
        f" of {found.other_people}"
    )
