"""A hard failure of a candidate takes its traffic away at once: its requests fail where those of others do
not. It is no verdict on the policy, whose trial ends.

Each process judges by its own requests of the last seconds. What failed is also kept for the statistics of
the rollout, as a failed request leaves no turn.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from serving.router import Route

WINDOW = 60.0
"""Seconds for which a request counts."""

LEAST = 3
"""Failed requests of the candidate, below which it is not judged."""

SHARE = 0.5
"""Share of its requests that must have failed."""

OTHERS = 0.2
"""Share of the others' requests, above which the engines are at fault and not the candidate."""

_MOST_REQUESTS = 500  # of a project that are remembered
_MOST_PENDING = 1_000  # failures that wait to be stored


class Failure(NamedTuple):
    """A request that failed, as a row of the table `rollout_failures`."""

    project: str
    policy: str
    rater: str
    origin: str | None


class Failures:
    """The newest requests of the projects that try a candidate. `on_hard_failure` is called with the project,
    the candidate and the reason."""

    def __init__(self, on_hard_failure: Callable[[str, str, str], None]) -> None:
        self._on_hard_failure = on_hard_failure
        self._requests: dict[str, deque[tuple[float, bool, bool]]] = {}
        self._pending: list[Failure] = []

    def note(self, route: Route, policy: str, rater: str, origin: str | None, *, failed: bool) -> None:
        """Notes how a request of `rater`, from the network `origin` where it counts, to a policy ended."""
        if route.canary is None:
            self._requests.pop(route.project, None)
            return
        found = self._requests.setdefault(route.project, deque(maxlen=_MOST_REQUESTS))
        found.append((time.monotonic(), policy == route.canary, failed))
        if not failed:
            return
        if len(self._pending) < _MOST_PENDING:
            self._pending.append(Failure(route.project, policy, rater, origin))
        if policy == route.canary and (reason := _hard(found)):
            found.clear()
            self._on_hard_failure(route.project, policy, reason)

    def take(self) -> list[Failure]:
        """Returns the failures that are not stored yet; the caller stores them."""
        taken, self._pending = self._pending, []
        return taken


def _hard(requests: deque[tuple[float, bool, bool]]) -> str | None:
    """Returns the reason where the candidate fails and the others do not."""
    since = time.monotonic() - WINDOW
    own = [failed for at, candidate, failed in requests if candidate and at >= since]
    others = [failed for at, candidate, failed in requests if not candidate and at >= since]
    if sum(own) < LEAST or sum(own) < SHARE * len(own) or not others or sum(others) > OTHERS * len(others):
        return None
    return f"a hard failure: {sum(own)} of its last {len(own)} requests failed"
