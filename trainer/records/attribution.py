"""This module attributes a round's reward model to votes and raters, for the round's record."""

from collections.abc import Callable, Sequence
from typing import Any

from trainer.data import examples
from trainer.data.examples import Example, Key
from trainer.reward import ensemble
from trainer.reward.ensemble import RewardModel
from trainer.reward.features import FeatureGroups
from trainer.reward.likelihood import Votes

SHOWN = 20
"""Votes and raters that a record names: those with the largest influence."""


def side_by_side(before: list[tuple[str, str]], after: list[tuple[str, str]]) -> list[dict[str, str]]:
    """Joins the (prompt, reply) samples of two policies by prompt."""
    return [
        {"prompt": prompt, "before": one, "after": other}
        for (prompt, one), (_, other) in zip(before, after, strict=True)
    ]


def held_out_accuracy(
    model: RewardModel, votes: Votes, keys: list[Key], features_of: Callable[[list[Key]], FeatureGroups]
) -> dict[str, Any]:
    """Returns the pairwise accuracy of the reward model on the held-out votes, which are on the replies
    `keys`; None without votes."""
    if not keys:
        return {"held_out_accuracy": None}
    accuracy = ensemble.pairwise_accuracy(model.reward(features_of(keys)), votes)
    return {"held_out_accuracy": None if accuracy is None else round(accuracy, 4)}


def vote_influence(
    model: RewardModel,
    votes: Votes,
    keys: list[Key],
    features_of: Callable[[list[Key]], FeatureGroups],
    training: Sequence[Example],
) -> dict[str, Any]:
    """Returns the training votes and the raters with the largest influence on the reward model, and the
    raters' estimated reliability and leniency. Votes compacted into the vote summary are not included."""
    influence = ensemble.influence(model, features_of(keys), votes)
    raters = examples.raters(training)
    return {
        "weightiest": [
            {
                "vote": training[index].event_id,
                "rater": training[index].rater,
                "kind": training[index].type,
                "weight": round(float(influence.votes_V[index]), 4),
            }
            for index in influence.votes_V.argsort(descending=True)[:SHOWN].tolist()
        ],
        "raters": [
            {
                "rater": raters[index],
                "votes": sum(example.rater == raters[index] for example in training),
                "weight": round(float(influence.raters_U[index]), 4),
                "reliability": round(float(influence.reliability_U[index]), 3),
                "leniency": round(float(influence.leniency_U[index]), 3),
            }
            for index in influence.raters_U.argsort(descending=True)[:SHOWN].tolist()
        ],
    }
