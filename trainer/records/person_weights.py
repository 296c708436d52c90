"""This module keeps the raters' weights on the tastes of a published policy: serving has them at once.

Serving makes them anew from a person's votes when these change; what is kept here saves it from scoring all
voted replies of all people under each new policy.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import LiteralString

from schemas.database import Pool
from trainer.data import examples
from trainer.data.examples import Example
from trainer.reward.tastes import PersonWeights

_FORGET: LiteralString = """
    delete from person_tastes using routes
    where person_tastes.project = %s and routes.project = person_tastes.project
        and policy not in (live, previous, coalesce(canary, live), %s)
"""
_KEEP: LiteralString = """
    insert into person_tastes (project, rater, policy, weights, votes)
    select %(project)s, %(rater)s, %(policy)s, %(weights)s, %(votes)s
    where not erased(%(project)s, %(rater)s, %(since)s)
    on conflict (project, rater, policy) do nothing
"""


def save(pool: Pool, project: str, policy: str, people: PersonWeights, training: Sequence[Example]) -> None:
    """Keeps the weights of the people who cast the training votes, and forgets those under policies that no
    longer answer. What serving has found meanwhile stays; who was erased meanwhile is not named again."""
    voted_at: dict[str, list[datetime]] = {}
    for example in training:
        if example.by_person:
            voted_at.setdefault(example.rater, []).append(example.created_at)
    raters = zip(examples.raters(training), people.mean_UT.tolist(), strict=True)
    rows = [
        {
            "project": project,
            "rater": rater,
            "policy": policy,
            # As much of the mean as everybody: the last direction of the taste model.
            "weights": [*weights, 0.0],
            "votes": len(voted_at[rater]),
            "since": min(voted_at[rater]),
        }
        for rater, weights in raters
        if rater in voted_at
    ]
    with pool.connection() as connection, connection.transaction():
        connection.execute(_FORGET, [project, policy])
        with connection.cursor() as cursor:
            cursor.executemany(_KEEP, rows)
