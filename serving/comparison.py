"""A comparison is the mean difference between two policies with a standard error, the person being its unit.

The votes of one person are not independent, so all of a person's figures are one observation: errors are
clustered by person. They are taken around what both policies have in common, as in a score test: a few who
agree do not look certain, as the difference is at most √n errors for n people (a self-normalised sum, which
is sub-Gaussian where differences are symmetric, de la Peña 1999). Between groups, the error is at least that
of two groups that vary as all people do together: ten who like a reply are no surprise where most do.

Between two groups of people, the difference is taken within each stage of a rollout and averaged with weights
that need no outcome (Cochran, Mantel, Haenszel): where shares change over time, and approval too, groups of
different times are never compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The candidate's mean less the other's, its standard error, the two means, and the people of each."""

    difference: float
    error: float
    candidate: float
    other: float
    people: int
    other_people: int

    @property
    def least_people(self) -> int:
        return min(self.people, self.other_people)


def between_groups(
    people: Sequence[str] | Array,
    candidate: Sequence[bool] | Array,
    stages: Sequence[int] | Array,
    values: Sequence[float] | Array,
) -> Comparison | None:
    """Compares people of the candidate with people of the other policy; None where no stage has both. The
    arguments have one entry for each person, policy and stage: the mean over what the person said there."""
    if not len(people):
        return None
    names, person = np.unique(people, return_inverse=True)
    found, stage = np.unique(stages, return_inverse=True)
    ours, value = np.asarray(candidate, dtype=bool), np.asarray(values, dtype=float)
    own = np.bincount(stage[ours], minlength=len(found))
    others = np.bincount(stage[~ours], minlength=len(found))
    weights = own * others / (own + others)
    if not weights.any():
        return None
    common = np.bincount(stage, value) / (own + others)
    share = np.where(ours, 1 / np.maximum(own, 1)[stage], -1 / np.maximum(others, 1)[stage])
    weight, residual = weights / weights.sum(), value - common[stage]
    influence = weight[stage] * share * residual
    spread = np.bincount(stage, residual**2) / (own + others)
    pooled = weight**2 * spread * (1 / np.maximum(own, 1) + 1 / np.maximum(others, 1))
    return Comparison(
        difference=float(influence.sum()),
        error=max(_clustered(influence, person, len(names)), sqrt(float(pooled.sum()))),
        candidate=float(value[ours].mean()),
        other=float(value[~ours].mean()),
        people=int(np.count_nonzero(np.bincount(person[ours]))),
        other_people=int(np.count_nonzero(np.bincount(person[~ours]))),
    )


def within_people(
    people: Sequence[str] | Array, differences: Sequence[float] | Array, even: float = 0.0
) -> Comparison | None:
    """Compares by pairs: each person's mean difference of candidate and other policy, which is `even` where
    neither is better; None without people."""
    if not len(people):
        return None
    names, person = np.unique(people, return_inverse=True)
    found = np.bincount(person, np.asarray(differences, dtype=float)) / np.bincount(person) - even
    mean = float(found.mean())
    return Comparison(
        difference=mean,
        error=_clustered(found / len(names), np.arange(len(names)), len(names)),
        candidate=even + mean,
        other=even - mean,
        people=len(names),
        other_people=len(names),
    )


def _clustered(influence: Array, cluster: Array, clusters: int) -> float:
    return sqrt(float((np.bincount(cluster, influence, minlength=clusters) ** 2).sum()))
