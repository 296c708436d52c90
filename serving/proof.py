"""Whether an engine really serves a policy: what it gives some tokens, against what the manifest says."""

import math
from dataclasses import dataclass

from schemas.policies import Probe

_PLACES = 8  # tokens of a probe that are asked for


@dataclass(frozen=True, slots=True)
class Telling:
    """What is asked of a probe: the log-probabilities (nats) at `places`, the adapter's and the base's."""

    places: list[int]
    logprobs: list[float]
    base_logprobs: list[float]


def telling(probe: Probe) -> Telling:
    """The _PLACES tokens at which adapter and base differ most."""
    by_difference = sorted(
        range(len(probe.logprobs)), key=lambda at: -abs(probe.logprobs[at] - probe.base_logprobs[at])
    )
    chosen = sorted(by_difference[:_PLACES])
    return Telling(
        [at + 1 for at in chosen],
        [probe.logprobs[at] for at in chosen],
        [probe.base_logprobs[at] for at in chosen],
    )


def distance(left: list[float], right: list[float]) -> float:
    """Mean absolute difference, nats a token; infinite when they are not comparable."""
    if not left or len(left) != len(right):
        return math.inf
    mean = sum(abs(a - b) for a, b in zip(left, right, strict=True)) / len(left)
    return mean if math.isfinite(mean) else math.inf


def passes(probe: Telling, measured: list[float], tolerance: float) -> bool:
    """Near to what the manifest says and, where the two can be told apart, nearer to it than to the base."""
    own = distance(measured, probe.logprobs)
    if not own <= tolerance:
        return False
    if distance(probe.logprobs, probe.base_logprobs) <= tolerance:
        return True
    return own < distance(measured, probe.base_logprobs)
