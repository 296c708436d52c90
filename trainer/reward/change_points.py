"""A permutation test finds raters who turned: who voted as others do, and then like the others of a cluster.

A rater's votes are taken in parts (`clusters.parts_of`). Of somebody who votes as ever, the parts that are in
a cluster may be any of theirs: given how many there are, each order is equally likely, whatever the reward
model makes of the votes. So the test is exact. Its statistic is the rank sum (Wilcoxon 1945; Mann and Whitney
1947) of the parts that are in the cluster among the rater's own, and the raters of a cluster count together:
the sums are added. A cluster that voted alike from the start has no order and shows nothing, nor does one
rater alone, whose votes are bounded anyhow (`data.vote_weights`).
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

LOOKS = 4_000
"""Clusters that are looked at in a person's life: four in each of a thousand rounds."""

ERROR = 0.01 / LOOKS
"""Chance that a cluster whose raters vote as ever is said to have turned: 1% in a life (Bonferroni)."""

OWN_ERROR = 0.05
"""Chance that a rater who votes as ever is taken for one of those who turned, where a cluster did. It has at
most a fifth of the people, so on average at most 1% of all people are."""

MOST_PARTS = 32
"""Newest parts of a rater that are looked at."""


def find_turned(orders: Mapping[int, Sequence[bool]]) -> set[int]:
    """Returns the raters of a cluster who turned. `orders` has by rater whether each of their parts is in
    the cluster, in the order of time."""
    if late_chance(list(orders.values())) > ERROR:
        return set()
    return {rater for rater, order in orders.items() if late_chance([order]) <= OWN_ERROR}


def late_chance(orders: Sequence[Sequence[bool]]) -> float:
    """Returns the chance that the parts in the cluster come at least as late, in all orders together, if the
    raters vote as ever."""
    chances: Array = np.ones(1)
    late = 0
    for order in orders:
        newest = order[-MOST_PARTS:]
        places = [place for place, inside in enumerate(newest) if inside]
        chances = np.convolve(chances, _rank_sums(len(newest), len(places)))
        late += sum(places) - sum(range(len(places)))
    return float(chances[late:].sum())


@cache
def _rank_sums(parts: int, inside: int) -> Array:
    """Returns the chance of each rank sum of so many of the parts, from the least possible one on."""
    least = sum(range(inside))
    width = least + inside * (parts - inside) + 1
    ways = np.zeros((inside + 1, width))
    ways[0, 0] = 1
    for place in range(parts):
        ways[1:, place:] += ways[:-1, : width - place]
    chances: Array = ways[inside, least:] / ways[inside].sum()
    return chances
