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
    keys = list(dict.fromkeys(key for each in said for some in _judged(each) for key in some))
    features = cache.features(keys)
    found = [fit_criterion(name, model, features, _rows(data, name, said, keys)) for name in names]
    return [head for head in found if head is not None]


def _rows(data: RoundData, name: str, said: Sequence[Example], keys: Sequence[Key]) -> MentionRows:
    reply = {key: number for number, key in enumerate(keys)}
    rater = {name: number for number, name in enumerate(examples.raters(said))}
    rows = [
        (each, met, judged, others)
        for each in said
        for met in [data.inputs.mentions.get(each.event_id, {}).get(name)]
        for judged, others in [_judged(each)]
        if met is not None or not others
    ]
    newest = data.corpus.newest
    return MentionRows(
        [[reply[key] for key in judged] for _, _, judged, _ in rows],
        [rater[each.rater] for each, _, _, _ in rows],
        [met is True for _, met, _, _ in rows],
        [met is False for _, met, _, _ in rows],
        [age_weight(newest - each.created_at, data.settings.reward) for each, _, _, _ in rows],
        [[reply[key] for key in others] for _, _, _, others in rows],
    )


def _judged(example: Example) -> tuple[Sequence[Key], Sequence[Key]]:
    """Returns the replies that a vote's mentions are about, and those that they are compared with: the reply
    of a thumb, or that an edit replaces; the best of a ranking, and the others; all where none was good."""
    keys = example.reply_keys
    if example.type != "ranking":
        return keys[-1:], ()
    if not example.value["acceptable"]:
        return keys, ()
    best, *rest = example.value["ranking"]
    return [keys[choice] for choice in best], [keys[choice] for group in rest for choice in group]
