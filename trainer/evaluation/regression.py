"""The live regression test compares people's votes on a policy with their votes on its parent.

The gate uses a reward model before anyone has seen a candidate; this test uses votes after. For each person
who voted on both policies, it takes the difference of the share of thumbs up. People differ in leniency, and
the votes of one person are not independent, so the unit is the person (`feedback.person`). The policy
regressed when the mean difference is below zero by more than two standard errors; the next round then starts
from the parent. The limit does not hold for all looks at once, since a false alarm costs one round only. It
happens once per parent: when the second policy from the same parent regresses too, the cause is a change of
the raters. The test does not change which policy is served.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, LiteralString

import torch

from feedback.person import person_of
from schemas.database import Pool
from schemas.feedback import JUDGE

MIN_PEOPLE = 5
"""People who must have voted on both policies."""

MAX_VOTES = 20_000
"""Thumbs that are compared, the newest."""

_CHANGES: LiteralString = """
with thumbs as (
    select turn_id, choice, rater, value from training_examples
    where project = %(project)s and type = 'thumb' and superseded_by is null
        and not starts_with(rater, %(judge)s)
    order by created_at desc, event_id limit %(votes)s
)
select avg((value ->> 'value' = 'up')::int) filter (where policy = %(policy)s)
    - avg((value ->> 'value' = 'up')::int) filter (where policy = %(parent)s) as change
from thumbs e join replies r on r.turn_id = e.turn_id and r.choice = e.choice
join turns t on t.id = e.turn_id
where r.policy in (%(policy)s, %(parent)s)
group by {person}
"""


@dataclass(frozen=True, slots=True)
class RegressionTest:
    """The result of the test. `change` is the mean difference, over `people`, in the share of thumbs up
    between `policy` and its parent, `error` its standard error, `directory` the parent's, and `repeated`
    whether another policy of the same parent was live before."""

    policy: str
    parent: str
    directory: Path
    people: int
    change: float
    error: float
    repeated: bool

    @property
    def regressed(self) -> bool:
        return not self.repeated and self.change < -2 * self.error

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"directory": str(self.directory), "regressed": self.regressed}


def live_regression_test(pool: Pool, project: str, policy: str) -> RegressionTest | None:
    """Tests `policy` against its parent; None for the base, and while fewer than MIN_PEOPLE have voted on
    both."""
    with pool.connection() as connection:
        step = connection.execute(
            "select parent.id, parent.directory, exists (select from policies other where"
            " other.project = p.project and other.parent = p.parent and other.created_at < p.created_at"
            " and other.live_at is not null) as repeated"
            " from policies p join policies parent on parent.project = p.project"
            " and parent.id = p.parent where p.project = %s and p.id = %s",
            [project, policy],
        ).fetchone()
        if step is None:
            return None
        values = {
            "project": project, "policy": policy, "parent": step["id"], "judge": JUDGE, "votes": MAX_VOTES,
        }  # fmt: skip
        rows = connection.execute(_CHANGES.format(person=person_of("t", "e")), values).fetchall()
    changes = [float(row["change"]) for row in rows if row["change"] is not None]
    if len(changes) < MIN_PEOPLE:
        return None
    change, error = mean_change(changes)
    return RegressionTest(
        policy, step["id"], Path(step["directory"]), len(changes), change, error, step["repeated"]
    )


def mean_change(changes: Sequence[float]) -> tuple[float, float]:
    """Returns the mean and its standard error, with one pseudo-observation at +1 and one at -1, so that a few
    equal values do not give an error of zero (Agresti and Min 2005)."""
    smoothed = torch.tensor([*changes, 1.0, -1.0], dtype=torch.float64)
    return float(smoothed.mean()), float(smoothed.std() / len(smoothed) ** 0.5)
