"""Evidence is what the unseen votes of a round say about replies: held-out votes that no policy learned from.

A reward model fitted to these votes alone judges the candidate. A model of few votes may be certain and
wrong, so it must first show that it knows something: that it ranks the replies of the training votes, to
which it was not fitted, better than chance (the rank-sum test: Mann and Whitney 1947).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.data.examples import raters
from trainer.data.feature_cache import FeatureCache
from trainer.data.split import RoundData
from trainer.evaluation.estimate import Estimate
from trainer.evaluation.influence import Influence, influence_of
from trainer.reward.ensemble import RewardModel
from trainer.reward.projection import BaseFeatures


@dataclass(frozen=True, slots=True)
class Evidence:
    """A reward model of `votes` unseen votes. `accuracy` is the probability that it ranks a liked reply above
    one that is not liked, among the replies of the training votes, with the standard error of a model that
    knows nothing. `influence` is that of the raters; None where there are too few."""

    model: RewardModel
    votes: int
    accuracy: Estimate
    influence: Influence | None = None

    @property
    def beats_chance(self) -> bool:
        """Whether the accuracy is above 0.5 at a one-sided error of 5%."""
        return self.accuracy.lower > 0.5


def unseen_evidence(data: RoundData, base: BaseFeatures, cache: FeatureCache) -> Evidence | None:
    """Returns the evidence of a round's unseen votes; None where they say nothing."""
    fitted = data.fit_unseen_model(base, cache)
    if fitted is None:
        return None
    model, votes, keys = fitted
    influence = influence_of(model, cache.features(keys), votes, raters(data.unseen), _groups(data))
    people = ((example, 1.0) for example in data.training if example.by_person)
    labelled = data.corpus.labelled(people)
    r_N = model.logits(cache.features([key for key, _, _ in labelled])).mean(1)
    liked_N = torch.tensor([liked for _, liked, _ in labelled], dtype=torch.bool)
    return Evidence(model, len(data.unseen), rank_accuracy(r_N, liked_N), influence)


def _groups(data: RoundData) -> dict[str, set[str]]:
    """Returns groups of raters by name: those of one cluster, and those of one network where nobody vouches
    for them."""
    found: dict[str, set[str]] = {}
    for example in data.unseen:
        if example.origin is not None:
            found.setdefault(example.origin, set()).add(example.rater)
    for number, cluster in enumerate(data.clusters):
        found[f"cluster {number}"] = {example.rater for example in data.votes_of(cluster)}
    return {name: raters for name, raters in found.items() if len(raters) > 1}


def rank_accuracy(r_N: Tensor, liked_N: Tensor) -> Estimate:
    """Returns the share of (liked, other) pairs of replies that r orders correctly, ties counting half (AUC),
    with its standard error under chance; 0.5 where there is no such pair."""
    up, down = r_N[liked_N], r_N[~liked_N]
    if not len(up) or not len(down):
        return Estimate(0.5, 0.5)
    gaps = up.unsqueeze(1) - down.unsqueeze(0)
    accuracy = float((gaps > 0).float().mean() + 0.5 * (gaps == 0).float().mean())
    return Estimate(accuracy, ((len(up) + len(down) + 1) / (12 * len(up) * len(down))) ** 0.5)
