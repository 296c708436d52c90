"""A confidence sequence holds at all times at once, so evidence may be looked at after every vote.

The one-sided test is the normal mixture (Robbins 1970; Howard et al. 2021): the likelihood ratio of a
Brownian motion with drift against one without, averaged over drifts from half-normal distributions. An
estimate that is a mean over many people is such a motion in information time, information being 1 / error²
(asymptotic confidence sequences, Waudby-Smith et al. 2021; mSPRT, Johari et al. 2015). Small samples are
covered by what the errors are made of (`serving.comparison`), and by a minimum of people.

`sample_ratio_evidence` is the same for counts: does traffic arrive in the shares in which it is sent? It is
the Bayes factor of a Dirichlet prior against the known shares (Lindon and Malek 2022).
"""

from collections.abc import Sequence
from math import erfc, exp, lgamma, log, pi, sqrt

WIDER, WIDE_SHARE = 4.0, 0.15
"""How much larger the distances are that have the rest of the bet, and their share of it."""

CONCENTRATION = 100.0
"""Observations that the Dirichlet prior around the known shares counts for: small mismatches are looked
for."""

_HALVINGS = 50  # of the bracket around a bound: it is exact to 2**-50 of itself


def log_evidence(distance: float, error: float, scale: float) -> float:
    """Returns the logarithm of the evidence (an e-value) that the true distance beyond a limit is above zero.
    `error` is the estimate's standard error, `scale` the distance that is looked for, in the same unit. The
    test is valid for all distances, the fastest for those of that size, and nearly so for much larger ones,
    which have a share of the bet."""
    near, far = _mixture(distance, error, scale), _mixture(distance, error, WIDER * scale)
    largest = max(near, far)
    return largest + log((1 - WIDE_SHARE) * exp(near - largest) + WIDE_SHARE * exp(far - largest))


def _mixture(distance: float, error: float, scale: float) -> float:
    """Returns the logarithm of the likelihood ratio, averaged over half-normal distances of this scale."""
    information, prior = 1 / error**2, 1 / scale**2
    total = information + prior
    z = distance * information / sqrt(total)
    return log(2) + log(prior / total) / 2 + z * z / 2 + _log_normal_cdf(z)


def radius(error: float, alpha: float, scale: float) -> float:
    """Returns how far beyond a limit an estimate must be to show that the truth is beyond it, with a chance
    of `alpha` that this is ever shown in error."""
    low, high = 0.0, error
    while log_evidence(high, error, scale) < -log(alpha):
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if log_evidence(middle, error, scale) < -log(alpha):
            low = middle
        else:
            high = middle
    return high


def sample_ratio_evidence(counts: Sequence[int], shares: Sequence[float]) -> float:
    """Returns the logarithm of the evidence that the counts do not come from these shares, which are above
    zero and sum to one."""
    prior = [CONCENTRATION * share for share in shares]
    found = lgamma(CONCENTRATION) - lgamma(CONCENTRATION + sum(counts))
    for count, share, own in zip(counts, shares, prior, strict=True):
        found += lgamma(own + count) - lgamma(own) - count * log(share)
    return found


def _log_normal_cdf(z: float) -> float:
    """Returns log Φ(z). Far below zero, it is by the tail's asymptotic series."""
    if z > -30:
        return log(erfc(-z / sqrt(2)) / 2)
    return -z * z / 2 - log(-z) - log(sqrt(2 * pi)) + log(1 - 1 / z**2)
