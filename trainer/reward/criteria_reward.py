"""The reward of a round with criteria: the reward model's, plus each criterion times its coefficient.

A criterion with a weight is added as it is. One that may not fall is a constraint, and its multiplier λ is a
Lagrange multiplier (Altman 1999, as in Safe RLHF: Dai et al. 2024), found before the first step. The policies
on the way to the optimum of a KL-regularised reward are the base's replies reweighted by exp(t·reward)
(Peters and Schaal 2007), so the base's samples tell what λ keeps the criterion where it is: the least for
which it does not fall at any t, by CAUTION standard errors of its head. Where the head is unsure, λ is
larger. The sum is standardised on the base's replies, so that β means the same with criteria or without.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import sqrt

from torch import Tensor

from schemas.settings import CriteriaSettings
from trainer.reward.criteria import CriterionHead
from trainer.reward.ensemble import RewardModel
from trainer.reward.features import FeatureGroups
from trainer.reward.projection import BaseFeatures

CAUTION = 4.0
"""Standard errors by which a criterion must not fall. With a hundred mentions r_c has so much noise that two
do not hold the true criterion. Chosen on tests.bench.criteria_reweighting."""

MAX_MULTIPLIER = 4.0
"""Largest λ, in standard deviations of the reward for each of the criterion."""

STRENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""The t at which the criterion is looked at, per standard deviation of the reward."""

SWEEPS, HALVINGS = 3, 12
"""Passes over several constraints, each of whose λ is found by so many bisections."""


@dataclass(frozen=True, slots=True)
class Term:
    """A criterion with its coefficient. `mean` and `std` are of its shares on the base's replies."""

    head: CriterionHead
    coefficient: float
    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class CriteriaReward:
    """The sum of a reward model and of criteria; `mean` and `std` are the sum's on the base's replies."""

    model: RewardModel
    terms: list[Term]
    mean: float
    std: float

    def reward(self, features: FeatureGroups) -> Tensor:
        """Returns (N,) rewards, standardised on the base's replies."""
        total_N = self.model.reward(features)
        if self.terms:
            inputs_NK = self.terms[0].head.inputs(features)
            for term in self.terms:
                total_N = total_N + term.coefficient * (term.head.shares(inputs_NK) - term.mean) / term.std
        return (total_N - self.mean) / self.std

    @property
    def max_reward(self) -> float:
        """The upper bound of the reward."""
        best = sum(
            max(each.coefficient * (end - each.mean) / each.std for end in (0.0, 1.0)) for each in self.terms
        )
        return (self.model.max_reward + best - self.mean) / self.std

    def as_json(self) -> dict[str, float]:
        """Returns the coefficient of each criterion."""
        return {term.head.name: round(term.coefficient, 3) for term in self.terms}


def criteria_reward(
    model: RewardModel, heads: Sequence[CriterionHead], settings: CriteriaSettings, base: BaseFeatures
) -> CriteriaReward:
    """Returns the reward with the criteria of the settings that have a head; all heads share their inputs."""
    used = [head for head in heads if head.name in settings.weights or head.name in settings.may_not_fall]
    total_N = model.reward(base.groups)
    terms: dict[str, Term] = {}
    if used:
        inputs_NK = used[0].inputs(base.groups)
        for head in used:
            share_N = head.shares(inputs_NK)
            weight = settings.weights.get(head.name, 0.0)
            std = max(float(share_N.std()), 1e-3)
            terms[head.name] = Term(head, weight, float(share_N.mean()), std)
        constraints = [name for name in settings.may_not_fall if name in terms]
        added = _multipliers(total_N, terms, constraints, inputs_NK, base.samples_per_prompt)
        terms = {
            name: Term(each.head, each.coefficient + added.get(name, 0.0), each.mean, each.std)
            for name, each in terms.items()
        }
        for each in terms.values():
            total_N = total_N + each.coefficient * _standardised(each, inputs_NK)
    if not terms:
        return CriteriaReward(model, [], 0.0, 1.0)
    std = max(float(total_N.std()), 1e-3)
    return CriteriaReward(model, list(terms.values()), float(total_N.mean()), std)


def _standardised(term: Term, inputs_NK: Tensor) -> Tensor:
    return (term.head.shares(inputs_NK) - term.mean) / term.std


def _multipliers(
    reward_N: Tensor, terms: Mapping[str, Term], names: Sequence[str], inputs_NK: Tensor, samples: int
) -> dict[str, float]:
    """Returns λ of each constraint, given the reward model's rewards of the base's replies."""
    z = {name: _standardised(term, inputs_NK) for name, term in terms.items()}
    found = dict.fromkeys(names, 0.0)
    for _ in range(SWEEPS if len(names) > 1 else 1):
        for name in names:
            others_N = reward_N.clone()
            for other, term in terms.items():
                others_N += (term.coefficient + (found.get(other, 0.0) if other != name else 0.0)) * z[other]
            least = partial(_least_change, terms[name].head, others_N, z[name], inputs_NK, samples)
            found[name] = _least_multiplier(least)
    return found


def _least_multiplier(least: Callable[[float], float]) -> float:
    """Returns the least multiplier for which nothing falls, or MAX_MULTIPLIER where there is none."""
    low, high = 0.0, MAX_MULTIPLIER
    if least(low) >= 0:
        return low
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if least(middle) >= 0 else (middle, high)
    return high


def _least_change(
    head: CriterionHead, others_N: Tensor, z_N: Tensor, inputs_NK: Tensor, samples: int, multiplier: float
) -> float:
    """Returns the least change of a criterion's share at any of STRENGTHS, less CAUTION standard errors, in
    proportion to the strength."""
    share_N, slope_NK = head.shares(inputs_NK), head.slopes(inputs_NK)
    total_N = others_N + multiplier * z_N
    total_PS = ((total_N - total_N.mean()) / total_N.std().clamp_min(1e-6)).view(-1, samples)
    found = []
    for strength in STRENGTHS:
        moved_N = ((strength * total_PS).softmax(1) - 1 / samples).flatten() / len(total_PS)
        error = sqrt(head.variance(moved_N @ slope_NK))
        found.append((float(moved_N @ share_N) - CAUTION * error) / strength)
    return min(found)
