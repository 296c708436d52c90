"""An estimate is a statistic with its standard error."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import hypot, sqrt
from typing import TypeVar

Row = TypeVar("Row")

Z_95 = 1.645
"""Quantile of the standard normal for a one-sided error of 5%."""

Z_80 = 0.842
"""The same for a power of 80%."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its standard error, in the same unit."""

    value: float
    error: float

    @property
    def lower(self) -> float:
        """The lower confidence bound, one-sided at 95%."""
        return self.value - Z_95 * self.error

    @property
    def detectable(self) -> float:
        """The smallest true difference from zero that a test at a one-sided error of 5% detects with a power
        of 80%."""
        return (Z_95 + Z_80) * self.error

    def __sub__(self, other: "Estimate | float") -> "Estimate":
        """Returns the difference of two independent estimates, or of an estimate and a constant."""
        if isinstance(other, Estimate):
            return Estimate(self.value - other.value, hypot(self.error, other.error))
        return Estimate(self.value - other, self.error)

    def __mul__(self, factor: float) -> "Estimate":
        return Estimate(factor * self.value, abs(factor) * self.error)

    def __str__(self) -> str:
        return f"{self.value:.3g} ± {self.error:.2g}"


def jackknife(statistic: Callable[[Sequence[Row]], float], clusters: Sequence[Sequence[Row]]) -> Estimate:
    """Estimates a statistic of all rows together by the jackknife that leaves out one cluster at a time
    (Efron and Stein 1981). Rows of one cluster need not be independent; of a single cluster, each row counts
    as one."""
    if len(clusters) == 1:
        clusters = [[row] for row in clusters[0]]
    rows = [row for cluster in clusters for row in cluster]
    if len(clusters) < 2:
        return Estimate(statistic(rows), 0.0)
    values, start = [], 0
    for cluster in clusters:
        values.append(statistic(rows[:start] + rows[start + len(cluster) :]))
        start += len(cluster)
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) * (len(values) - 1) / len(values)
    return Estimate(statistic(rows), sqrt(variance))


def increase_of_share(before: tuple[int, int], after: tuple[int, int]) -> Estimate:
    """Returns the increase of a share between two samples, each given as (with the property, all), with the
    pooled standard error of two proportions. One success and one failure are added to it, so that samples
    that agree in all do not give an error of zero."""
    (had, of), (has, among) = before, after
    pooled = (had + has + 1) / (of + among + 2)
    error = sqrt(pooled * (1 - pooled) * (1 / of + 1 / among))
    return Estimate(has / among - had / of, error)
