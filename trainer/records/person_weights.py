"""This module keeps the raters' weights on the tastes of a published policy: serving has them at once.

Serving makes them anew from a person's votes when these change; what is kept here saves it from scoring all
voted replies of all people under each new policy.
"""

from collections import Counter
from collections.abc import Sequence
from typing import LiteralString

from feedback.person_votes import VOTED
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
    with voted as ({voted})
    insert into person_tastes (project, rater, policy, weights, votes)
    select %(project)s, %(rater)s, %(policy)s, %(weights)s, %(votes)s from voted
    on conflict (project, rater, policy) do nothing
"""


def save(pool: Pool, project: str, policy: str, people: PersonWeights, training: Sequence[Example]) -> None:
    """Keeps the weights of the people who cast the training votes, and forgets those under policies that no
    longer answer. What serving has found meanwhile stays."""
    votes = Counter(example.rater for example in training if example.by_person)
    raters = zip(examples.raters(training), people.mean_UT.tolist(), strict=True)
    rows = [
        # As much of the mean as everybody: the last direction of the taste model.
        {
            "project": project, "rater": rater, "policy": policy, "votes": votes[rater],
            "weights": [*weights, 0.0],
        }  # fmt: skip
        for rater, weights in raters
        if votes[rater]
    ]
    with pool.connection() as connection, connection.transaction():
        connection.execute(_FORGET, [project, policy])
        with connection.cursor() as cursor:
            cursor.executemany(_KEEP.format(voted=VOTED), rows)
