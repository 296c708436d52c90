"""What a round changed and who and what made it so, for its record."""

from typing import Any

from trainer.data import examples
from trainer.reward import ensemble
from trainer.reward.ensemble import RewardModel
from trainer.round import Round, Seen

SHOWN = 20
"""Votes and raters that are named, those of most weight."""

Said = list[tuple[str, str]]
"""Prompts and replies."""


def of_replies(before: Said, after: Said) -> list[dict[str, str]]:
    """What the two policies say, side by side."""
    return [
        {"prompt": prompt, "before": one, "after": other}
        for (prompt, one), (_, other) in zip(before, after, strict=True)
    ]


def of_model(work: Round, model: RewardModel, seen: Seen) -> dict[str, Any]:
    """How the reward model orders replies whose votes it has not seen."""
    votes, keys = work.votes(held_out=True)
    if not keys:
        return {"held_out_accuracy": None}
    accuracy = ensemble.pairwise_accuracy(model.reward(seen.of(keys)), votes)
    return {"held_out_accuracy": None if accuracy is None else round(accuracy, 4)}


def of_votes(work: Round, model: RewardModel, seen: Seen) -> dict[str, Any]:
    """Whose votes, and which, the reward model owes most to, and what it makes of the raters. Older votes
    are no longer told apart: those that are named are newer, and so are the raters."""
    votes, keys = work.votes()
    weight = ensemble.influence(model, seen.of(keys), votes)
    raters = examples.raters(work.training)
    return {
        "weightiest": [
            {
                "vote": work.training[index].event_id,
                "rater": work.training[index].rater,
                "kind": work.training[index].type,
                "weight": round(float(weight.of_votes_V[index]), 4),
            }
            for index in weight.of_votes_V.argsort(descending=True)[:SHOWN].tolist()
        ],
        "raters": [
            {
                "rater": raters[index],
                "votes": sum(example.rater == raters[index] for example in work.training),
                "weight": round(float(weight.of_raters_U[index]), 4),
                "reliability": round(float(weight.reliability_U[index]), 3),
                "leniency": round(float(weight.leniency_U[index]), 3),
            }
            for index in weight.of_raters_U.argsort(descending=True)[:SHOWN].tolist()
        ],
    }
