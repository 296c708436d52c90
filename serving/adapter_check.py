"""The adapter check compares an engine's log-probabilities on a probe with the manifest's, to verify that the
engine really serves the adapter and not the base model."""

import math
from dataclasses import dataclass

from schemas.policies import Probe

_MAX_POSITIONS = 8  # tokens of a probe that an engine is asked for


@dataclass(frozen=True, slots=True)
class ProbePositions:
    """The part of a probe that is asked for: token positions, and at each the log-probability (nats) of the
    adapter and of the base."""

    positions: list[int]
    logprobs: list[float]
    base_logprobs: list[float]


def select_positions(probe: Probe) -> ProbePositions:
    """Returns the _MAX_POSITIONS tokens at which adapter and base differ most."""
    by_difference = sorted(
        range(len(probe.logprobs)), key=lambda at: -abs(probe.logprobs[at] - probe.base_logprobs[at])
    )
    chosen = sorted(by_difference[:_MAX_POSITIONS])
    return ProbePositions(
        [at + 1 for at in chosen],
        [probe.logprobs[at] for at in chosen],
        [probe.base_logprobs[at] for at in chosen],
    )


def mean_difference(left: list[float], right: list[float]) -> float:
    """Returns the mean absolute difference in nats per token; infinite where it is undefined."""
    if not left or len(left) != len(right):
        return math.inf
    mean = sum(abs(a - b) for a, b in zip(left, right, strict=True)) / len(left)
    return mean if math.isfinite(mean) else math.inf


def verify_adapter(probe: ProbePositions, measured: list[float], tolerance: float) -> bool:
    """Returns whether `measured` is within `tolerance` (nats per token) of the adapter's log-probabilities
    and, where adapter and base differ by more than that, nearer to the adapter than to the base."""
    own = mean_difference(measured, probe.logprobs)
    if not own <= tolerance:
        return False
    if mean_difference(probe.logprobs, probe.base_logprobs) <= tolerance:
        return True
    return own < mean_difference(measured, probe.base_logprobs)
