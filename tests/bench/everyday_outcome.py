"""What a run of the bench `everyday` found, and whether the targets are reached."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.judgment import BaseJudgment, PolicyJudgment
from tests.bench.tastes import Taste


@dataclass(frozen=True, slots=True)
class Rounds:
    """How the rounds of a run ended, the seconds of each, the minutes until the last ended, and the votes."""

    outcomes: list[str]
    seconds: list[float]
    minutes: float
    votes: int


@dataclass(frozen=True, slots=True)
class Policies:
    """The live policy in the end, and the one that learned last, which is often the same."""

    live: PolicyJudgment
    newest: PolicyJudgment


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one seed found; shares are between 0 and 1, KL is in nats a reply. `policy` is the live policy in
    the end, and `newest` the one that learned last: the canary, if there is one. `share_error` is the
    standard error over prompts."""

    seed: int
    taste: str
    share_of_achievable_gain: float
    share_error: float
    newest_share_of_gain: float
    base: float
    policy: float
    newest: float
    best_of_16: float
    length_ratio: float
    liked_length_ratio: float
    asks_for_length: bool
    rounds: dict[str, int]
    published_share: float
    seconds_per_round: float
    minutes: float
    knowledge_lost: float | None
    kl: float
    votes: int


def outcome(
    seed: int, taste: Taste, base: BaseJudgment, policies: Policies, rounds: Rounds, lost: float | None
) -> Outcome:
    """Returns the figures of a seed, rounded; `lost` is the live policy's loss of knowledge."""
    policy, newest = policies.live, policies.newest
    return Outcome(
        seed=seed,
        taste=taste.name,
        share_of_achievable_gain=round(base.share_of_gain(policy.approval), 3),
        share_error=round(base.share_error(policy), 3),
        newest_share_of_gain=round(base.share_of_gain(newest.approval), 3),
        base=round(base.approval, 3),
        policy=round(policy.approval, 3),
        newest=round(newest.approval, 3),
        best_of_16=round(base.best, 3),
        length_ratio=round(policy.length / base.length, 3),
        liked_length_ratio=round(base.liked_length / base.length, 3),
        asks_for_length=taste.asks_for_length,
        rounds={each: rounds.outcomes.count(each) for each in sorted(set(rounds.outcomes))},
        published_share=round(_went_out(rounds.outcomes) / max(1, len(rounds.outcomes)), 3),
        seconds_per_round=round(statistics.mean(rounds.seconds or [0.0]), 1),
        minutes=round(rounds.minutes, 1),
        knowledge_lost=None if lost is None else round(lost, 4),
        kl=round(policy.kl, 2),
        votes=rounds.votes,
    )


def targets_reached(found: Sequence[Outcome]) -> bool:
    """Whether the targets of the bench are reached."""
    gains = [each.share_of_achievable_gain for each in found]
    ended = [name for each in found for name, count in each.rounds.items() for _ in range(count)]
    return (
        statistics.median(gains) >= 0.5
        and min(gains) >= 0.25
        and _went_out(ended) >= 0.7 * len(ended)
        and all((each.knowledge_lost or 0) <= 0.03 for each in found)
        and all(each.asks_for_length or abs(each.length_ratio - 1) <= 0.15 for each in found)
    )


def _went_out(outcomes: Sequence[str]) -> int:
    """Returns how many rounds were published or taken to a canary."""
    return sum(each in ("published", "canary") for each in outcomes)
