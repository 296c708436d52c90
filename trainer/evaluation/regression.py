"""What people's votes say of the step that led to a policy, now that they have seen it.

The gate asks a model before anyone has seen a candidate; this asks people after. Of each who voted on both,
the share of thumbs up on the policy's replies is set against that on its parent's: one is more lenient than
another, and a person's votes are not independent of each other, so the person is the unit. Where the mean
difference is below zero by more than twice its standard error, the step was a bad one, and the next round
starts from the parent. It does so once for each parent: if the second step from there that everybody was
served fares no better, it is the crowd that has changed. What is served meanwhile is not decided here.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from schemas.database import Pool
from schemas.feedback import JUDGE

FEWEST = 5
"""People who must have voted on both."""


@dataclass(frozen=True, slots=True)
class Hindsight:
    """By how much `people` give a thumb up to `policy` more often than to its parent, which is in
    `directory`, on average, and the standard error of that; `again` where the step is not the first from this
    parent that was live."""

    policy: str
    parent: str
    directory: Path
    people: int
    change: float
    error: float
    again: bool

    @property
    def regrets(self) -> bool:
        return not self.again and self.change < -2 * self.error

    def figures(self) -> dict[str, Any]:
        return asdict(self) | {"directory": str(self.directory), "regrets": self.regrets}


def look_back(pool: Pool, project: str, policy: str) -> Hindsight | None:
    """At the step to `policy`; None for the base, and while too few people have voted."""
    with pool.connection() as connection:
        step = connection.execute(
            "select parent.id, parent.directory, exists (select from policies other where"
            " other.project = p.project and other.parent = p.parent and other.created_at < p.created_at"
            " and other.live_at is not null) as again"
            " from policies p join policies parent on parent.project = p.project"
            " and parent.id = p.parent where p.project = %s and p.id = %s",
            [project, policy],
        ).fetchone()
        if step is None:
            return None
        rows = connection.execute(
            "select avg((value ->> 'value' = 'up')::int) filter (where policy = %(policy)s)"
            " - avg((value ->> 'value' = 'up')::int) filter (where policy = %(parent)s) as change"
            " from replies r join training_examples e on e.turn_id = r.turn_id and e.choice = r.choice"
            " where r.project = %(project)s and r.policy in (%(policy)s, %(parent)s) and e.type = 'thumb'"
            " and e.superseded_by is null and not starts_with(e.rater, %(judge)s) group by e.rater",
            {"project": project, "policy": policy, "parent": step["id"], "judge": JUDGE},
        ).fetchall()
    changes = [float(row["change"]) for row in rows if row["change"] is not None]
    if len(changes) < FEWEST:
        return None
    change, error = mean_change(changes)
    return Hindsight(policy, step["id"], Path(step["directory"]), len(changes), change, error, step["again"])


def mean_change(changes: Sequence[float]) -> tuple[float, float]:
    """And its standard error. One person more for either is counted than there are: a few who all say the
    same leave one unsure (Agresti and Min 2005)."""
    seen = torch.tensor([*changes, 1.0, -1.0], dtype=torch.float64)
    return float(seen.mean()), float(seen.std() / len(seen) ** 0.5)
