"""The verdict of the gate has three outcomes: refused, passed, or unknown.

A candidate is refused on evidence of harm, and passes on evidence that it is no worse than the live policy.
Without either the verdict is unknown: that nothing was seen is no reason to give a policy to everybody.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from trainer.evaluation.estimate import Estimate

Outcome = Literal["passed", "unknown", "refused"]
State = Literal["good", "unknown", "refused"]

REFUSAL_ERRORS = 2
"""Standard errors by which a figure must be beyond its limit before it refuses a candidate."""


@dataclass(frozen=True, slots=True)
class Check:
    """What was decided about one figure: what was found, the limit that it was compared with, and the
    standard error of their difference, in the figure's unit (None where it has no error)."""

    found: float
    limit: float
    error: float | None
    state: State

    def as_json(self) -> dict[str, Any]:
        """Returns the figures, rounded."""
        return {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


@dataclass
class Verdict:
    """The gate's decision with its figures. `checks` are the decisions about single figures, by their names,
    `reasons` say why the candidate is refused, `doubts` what keeps it from passing, `rests_on` the raters
    without whom it would not pass."""

    figures: dict[str, Any] = field(default_factory=dict)
    checks: dict[str, Check] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    rests_on: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome:
        if self.reasons:
            return "refused"
        return "unknown" if self.doubts else "passed"

    @property
    def refused(self) -> bool:
        return self.outcome == "refused"

    def require(self, condition: bool, reason: str) -> None:
        """Refuses the candidate unless `condition` holds."""
        if not condition:
            self.reasons.append(reason)

    def limit(self, figure: str, found: float, limit: float, excess: Estimate, reason: str) -> None:
        """Refuses a candidate of which a figure exceeds its limit by more than REFUSAL_ERRORS standard
        errors; doubts it where it exceeds the limit by less. `excess` is in the figure's unit."""
        state: State = "good"
        if excess.value > REFUSAL_ERRORS * excess.error:
            state = "refused"
            self.reasons.append(reason)
        elif excess.value > 0:
            state = "unknown"
            self.doubts.append(f"{reason}, which may be chance")
        self.checks[figure] = Check(found, limit, excess.error, state)

    def as_json(self) -> dict[str, Any]:
        return {
            "outcome": self.outcome,
            "passed": self.outcome == "passed",
            "reasons": self.reasons,
            "doubts": self.doubts,
            "figures": self.figures,
            "checks": {figure: check.as_json() for figure, check in self.checks.items()},
        }
