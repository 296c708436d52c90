"""A BehaviourPenalty is taken off the reward of replies that behave as blocked candidates did.

Each reply that shows a behaviour of level c costs c·PENALTY, as far as the sampled replies show it more often
than the base's (as the penalty on missing end tokens): a base that rightly refuses is not talked out of it.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

import torch
from torch import Tensor

from trainer.evaluation.constraints.begging import begs
from trainer.evaluation.constraints.check import answer_text
from trainer.evaluation.constraints.dodging import dodges
from trainer.model.backbone import Backbone
from trainer.model.rollouts import Rollout

PENALTY = 2.0
"""Penalty of one level, in standard deviations of the reward over the base's replies."""

_BEHAVIOURS: dict[str, Callable[[str], bool]] = {"dodging": dodges, "begging": begs}


class BehaviourPenalty:
    """The penalty of a round with these levels (`data.cautions`), given the base's replies."""

    def __init__(self, backbone: Backbone, cautions: Mapping[str, int], base: Sequence[Rollout]) -> None:
        self._backbone = backbone
        self._terms = [
            (shows, PENALTY * cautions[name], fmean(self._shown(shows, base)))
            for name, shows in _BEHAVIOURS.items()
            if name in cautions
        ]

    def __call__(self, rollouts: Sequence[Rollout]) -> Tensor:
        """Returns the (B,) penalties of a step's replies."""
        total_B = torch.zeros(len(rollouts))
        for shows, coefficient, base_rate in self._terms:
            shown_B = torch.tensor(self._shown(shows, rollouts))
            rate = float(shown_B.mean())
            if rate > base_rate:
                total_B += coefficient * (1 - base_rate / rate) * shown_B
        return total_B

    def _shown(self, shows: Callable[[str], bool], rollouts: Sequence[Rollout]) -> list[float]:
        return [float(shows(answer_text(self._backbone, rollout))) for rollout in rollouts]
