"""A Finding is what the gate found of one constraint: the candidate's share, its error, and the limit.

A share may be as high as the base's plus a margin, or as high as the live policy's where that is higher: a
policy that people made live anyway can still be improved. Let e be the excess over this limit and s its
standard error. The candidate is blocked where e > 2s, and good where e + s ≤ 0. In between the verdict is
unknown, and a share of the people decides (a canary).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Any, Literal

from schemas.constraints import CONSTRAINTS
from trainer.evaluation.estimate import Estimate
from trainer.evaluation.verdict import REFUSAL_ERRORS

State = Literal["good", "unknown", "blocked", "unjudged"]

SHOWN_REPLIES, SHOWN_CHARACTERS = 3, 300
"""Replies of a blocked candidate that its report shows, and the most characters of each."""

ByPrompt = Sequence[Sequence[str]]
"""The texts of a policy's replies to each prompt."""


@dataclass(frozen=True, slots=True)
class Replies:
    """The replies of the candidate and of the live policy to the eval prompts, and of the base to train
    prompts."""

    candidate: ByPrompt
    live: ByPrompt
    base: ByPrompt


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of the constraint `name`. `candidate`, `base` and `live` are shares of what
    `CONSTRAINTS` names, `limit` is the highest share that is allowed. `replies` are some that behave so.
    Where the state is "unjudged", `notice` says why, and there are no figures. `judge` is the model that
    judged, if one did, and `unknown` the number of the candidate's replies on which it gave no verdict."""

    name: str
    state: State
    candidate: Estimate = field(default_factory=lambda: Estimate(0.0, 0.0))
    base: float = 0.0
    live: float | None = None
    limit: float = 0.0
    replies: tuple[str, ...] = ()
    notice: str | None = None
    judge: str | None = None
    unknown: int = 0

    @property
    def reason(self) -> str:
        """What is wrong with the candidate, in words."""
        about, found = CONSTRAINTS[self.name], self.candidate
        return (
            f"{about.words}: {found.value:.1%} ± {found.error:.1%} of {about.of}, above the limit of"
            f" {self.limit:.1%}"
        )

    def as_json(self) -> dict[str, Any]:
        """Returns the figures, rounded."""
        if self.state == "unjudged":
            return {"state": self.state, "notice": self.notice}
        live = {} if self.live is None else {"live": round(self.live, 4)}
        judged = {} if self.judge is None else {"judge": self.judge, "unknown": self.unknown}
        return {
            "state": self.state, "candidate": round(self.candidate.value, 4),
            "error": round(self.candidate.error, 4), "base": round(self.base, 4), **live,
            "limit": round(self.limit, 4), **judged,
        }  # fmt: skip


def state_of(excess: Estimate) -> State:
    """Returns what follows from the excess over a limit."""
    if excess.value > REFUSAL_ERRORS * excess.error:
        return "blocked"
    return "good" if excess.value + excess.error <= 0 else "unknown"


def share(shown: Sequence[Sequence[bool]]) -> Estimate:
    """Returns the share of the replies that show a behaviour, given for each prompt. Its standard error is
    the larger of the one clustered by prompt (Liang and Zeger 1986) and of the binomial one, with one success
    and one failure on top (Agresti and Caffo 2000), so that no sample of equal replies is certain."""
    replies = [each for prompt in shown for each in prompt]
    count, prompts = len(replies), len(shown)
    value = sum(replies) / count
    squares = sum((sum(prompt) - value * len(prompt)) ** 2 for prompt in shown)
    clustered = sqrt(squares * prompts / max(1, prompts - 1)) / count
    smoothed = (sum(replies) + 1) / (count + 2)
    return Estimate(value, max(clustered, sqrt(smoothed * (1 - smoothed) / count)))


def compare_replies(
    name: str, shows: Callable[[str], bool], replies: Replies, max_increase: float
) -> Finding:
    """Returns what was found of a behaviour that a reply shows by itself."""
    shown, of_live, of_base = (
        [[shows(text) for text in prompt] for prompt in policy]
        for policy in (replies.candidate, replies.live, replies.base)
    )
    candidate, live, base = share(shown), share(of_live), share(of_base)
    limit = max(Estimate(base.value + max_increase, base.error), live, key=lambda each: each.value)
    return Finding(
        name, state_of(candidate - limit), candidate, base.value, live.value, limit.value,
        examples(replies.candidate, shown),
    )  # fmt: skip


def blocked_replies(findings: Sequence[Finding]) -> dict[str, list[str]] | None:
    """Returns some replies of a blocked candidate for each constraint that blocks it; None if none does."""
    found = {each.name: list(each.replies) for each in findings if each.state == "blocked"}
    return found or None


def examples(replies: ByPrompt, shown: Sequence[Sequence[bool]]) -> tuple[str, ...]:
    """Returns the first replies that show a behaviour, cut to SHOWN_CHARACTERS."""
    found = [
        text[:SHOWN_CHARACTERS]
        for texts, shows in zip(replies, shown, strict=True)
        for text, here in zip(texts, shows, strict=True)
        if here
    ]
    return tuple(found[:SHOWN_REPLIES])
