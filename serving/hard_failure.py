"""A hard failure of a candidate takes its traffic away at once: its requests fail where those of others do
not. It is no verdict on the policy, whose trial ends.

Each process judges by the newest request of each person (`feedback.person`) in the last seconds: whoever
sends what always fails is one of several, unless nobody else asks the candidate. What failed is also kept for
the statistics of the rollout, as a failed request leaves no turn.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

from serving.router import Route

WINDOW = 60.0
"""Seconds for which a request counts."""

LEAST = 3
"""Failed requests of the candidate, below which it is not judged."""

PEOPLE = 5
"""People who asked the candidate last, all of whose newest requests must have failed; fewer, where fewer have
asked it."""

OTHER_PEOPLE = 10
"""People whom other policies answered last."""

OTHERS = 0.2
"""Share of these whose newest request failed, above which the engines are at fault and not the candidate."""

_MOST_PEOPLE = 500  # of a project whose newest request is remembered
_MOST_PENDING = 1_000  # failures that wait to be stored


class Failure(NamedTuple):
    """A request that failed, as a row of the table `rollout_failures`."""

    project: str
    policy: str
    rater: str
    origin: str | None


class _Newest(NamedTuple):
    """When the newest request of a person to a policy ended, and how many of theirs have failed in a row."""

    at: float
    failures: int


class Failures:
    """The newest requests of the projects that try a candidate. `on_hard_failure` is called with the project,
    the candidate and the reason."""

    def __init__(self, on_hard_failure: Callable[[str, str, str], None]) -> None:
        self._on_hard_failure = on_hard_failure
        self._requests: dict[str, dict[tuple[str, str], _Newest]] = {}  # by policy and person, newest last
        self._pending: list[Failure] = []

    def note(
        self, route: Route, policy: str, rater: str, origin: str | None, *, failed: bool, drawn: bool
    ) -> None:
        """Notes how a request of `rater`, from the network `origin` where it counts, to a policy ended. It is
        a statistic where the policy was `drawn`, as replies are."""
        if route.canary is None:
            self._requests.pop(route.project, None)
            return
        found = self._requests.setdefault(route.project, {})
        key = policy, origin or rater
        before = found.pop(key, None)
        found[key] = _Newest(time.monotonic(), (before.failures if before else 0) + 1 if failed else 0)
        if len(found) > _MOST_PEOPLE:
            del found[next(iter(found))]
        if not failed:
            return
        if drawn and len(self._pending) < _MOST_PENDING:
            self._pending.append(Failure(route.project, policy, rater, origin))
        if policy == route.canary and (reason := _hard(policy, found)):
            found.clear()
            self._on_hard_failure(route.project, policy, reason)

    def take(self) -> list[Failure]:
        """Returns the failures that are not stored yet; the caller stores them."""
        taken, self._pending = self._pending, []
        return taken


def _hard(candidate: str, requests: dict[tuple[str, str], _Newest]) -> str | None:
    """Returns the reason where the candidate fails and the others do not."""
    since = time.monotonic() - WINDOW
    newest = [(policy, each) for (policy, _), each in reversed(requests.items()) if each.at >= since]
    own = [each.failures for policy, each in newest if policy == candidate][:PEOPLE]
    others = [each.failures > 0 for policy, each in newest if policy != candidate][:OTHER_PEOPLE]
    if not all(own) or sum(own) < LEAST or not others or sum(others) > OTHERS * len(others):
        return None
    people = "one person" if len(own) == 1 else f"{len(own)} people"
    return f"a hard failure: {sum(own)} requests of {people} failed in a row"
