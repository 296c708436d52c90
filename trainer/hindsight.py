"""What people's votes say of the step that led to a policy, now that they have seen it.

The gate asks a model before anyone has seen a candidate; this asks people after. Their thumbs on a policy's
replies are set against those on its parent's. The unit is the person, whose votes are not independent of each
other: shares of thumbs up are ratios over people, with the standard error of such a ratio (Cochran 1977,
chapter 6). Where the policy is below its parent by more than twice the error of their difference, the step
was a bad one, and the next round starts from the parent. What is served meanwhile is not decided here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.database import Pool
from schemas.feedback import JUDGE

FEWEST = 5
"""People who must have voted on each of the two."""


@dataclass(frozen=True, slots=True)
class Hindsight:
    """Shares of thumbs up of a policy and of its `parent`, and the standard error of their difference."""

    parent: str
    directory: Path
    approval: float
    approval_before: float
    error: float

    @property
    def regrets(self) -> bool:
        return self.approval_before - self.approval > 2 * self.error

    def figures(self) -> dict[str, float]:
        return {"approval": self.approval, "approval_before": self.approval_before, "error": self.error}


def look_back(pool: Pool, project: str, policy: str) -> Hindsight | None:
    """At the step to `policy`; None for the base, and while too few people have voted."""
    with pool.connection() as connection:
        parent = connection.execute(
            "select parent.id, parent.directory from policies p"
            " join policies parent on parent.project = p.project and parent.id = p.parent"
            " where p.project = %s and p.id = %s",
            [project, policy],
        ).fetchone()
        if parent is None:
            return None
        rows = connection.execute(
            "select r.policy, count(*) filter (where e.value ->> 'value' = 'up') as up, count(*) as cast"
            " from replies r join examples e on e.turn_id = r.turn_id and e.choice = r.choice"
            " where r.project = %s and r.policy = any(%s) and e.type = 'thumb' and e.ended_by is null"
            " and not starts_with(e.rater, %s)"
            " group by r.policy, e.rater",
            [project, [policy, parent["id"]], JUDGE],
        ).fetchall()
    after = [(row["up"], row["cast"]) for row in rows if row["policy"] == policy]
    before = [(row["up"], row["cast"]) for row in rows if row["policy"] == parent["id"]]
    if min(len(after), len(before)) < FEWEST:
        return None
    (now, variance), (then, variance_then) = share(after), share(before)
    return Hindsight(parent["id"], Path(parent["directory"]), now, then, math.sqrt(variance + variance_then))


def share(people: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Of thumbs up among all, given each person's (up, all), and its variance. One person for and one against
    are counted more than there are: a few votes all alike leave one unsure (Agresti and Caffo 2000)."""
    seen = [*people, (1, 1), (0, 1)]
    cast = sum(each for _, each in seen)
    mean = sum(up for up, _ in seen) / cast
    spread = sum((up - mean * each) ** 2 for up, each in seen)
    return mean, spread * len(seen) / (len(seen) - 1) / cast**2
