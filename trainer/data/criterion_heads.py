"""This module fits the criteria of a round to what its votes mention (`mentions`)."""

from collections.abc import Sequence

from schemas.criteria import CRITERIA
from trainer.data import examples
from trainer.data.examples import Example, Key
from trainer.data.feature_cache import FeatureCache
from trainer.data.split import RoundData
from trainer.data.vote_weights import age_weight
from trainer.reward.criteria import CriterionHead, MentionRows, fit_criterion
from trainer.reward.ensemble import RewardModel


def fit_heads(
    data: RoundData, chosen: Sequence[Example], model: RewardModel, cache: FeatureCache
) -> list[CriterionHead]:
    """Returns the criteria that these votes tell enough of, the known ones first. Votes that mention nothing
    count too: they are what the others differ from. Compacted votes are not among them."""
    mentions = data.inputs.mentions
    said = [each for each in chosen if each.by_person and (each.type == "thumb" or each.event_id in mentions)]
    if not mentions or not said:
        return []
    names = sorted({name for of_vote in mentions.values() for name in of_vote})
    names = [*(name for name in CRITERIA if name in names), *(name for name in names if name not in CRITERIA)]
    keys = list(dict.fromkeys(map(_judged_reply, said)))
    features = cache.features(keys)
    found = [fit_criterion(name, model, features, _rows(data, name, said, keys)) for name in names]
    return [head for head in found if head is not None]


def _rows(data: RoundData, name: str, said: Sequence[Example], keys: Sequence[Key]) -> MentionRows:
    reply = {key: number for number, key in enumerate(keys)}
    rater = {name: number for number, name in enumerate(examples.raters(said))}
    mentions = [data.inputs.mentions.get(each.event_id, {}).get(name) for each in said]
    newest = data.corpus.newest
    return MentionRows(
        [reply[_judged_reply(each)] for each in said],
        [rater[each.rater] for each in said],
        [met is True for met in mentions],
        [met is False for met in mentions],
        [age_weight(newest - each.created_at, data.settings.reward) for each in said],
    )


def _judged_reply(example: Example) -> Key:
    """Returns the reply that a thumb is on, or that an edit replaces."""
    return example.reply_keys[-1]
