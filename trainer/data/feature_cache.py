"""FeatureCache keeps the base's features and log-probabilities of voted replies from round to round."""

import torch

from trainer.data.examples import Corpus, Key
from trainer.model.backbone import Backbone
from trainer.reward.features import FeatureGroups
from trainer.reward.scoring import score


class FeatureCache:
    """Scores each voted reply once, and drops it with its vote."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._features: dict[Key, FeatureGroups] = {}
        self._base_logprobs: dict[Key, float] = {}

    def update(self, corpus: Corpus) -> None:
        """Scores the new replies of `corpus` and drops the replies that it no longer has. Each reply is a
        batch of its own, so that its score does not depend on the round that computed it."""
        self._features = {key: value for key, value in self._features.items() if key in corpus.replies}
        self._base_logprobs = {key: self._base_logprobs[key] for key in self._features}
        new = [key for key in corpus.replies if key not in self._features]
        if new:
            replies = [corpus.replies[key] for key in new]
            scored = score(
                self._backbone,
                [reply.prompt_ids for reply in replies],
                [reply.token_ids for reply in replies],
                micro_batch=1,
            )
            for row, key in enumerate(new):
                self._features[key] = {name: group[row].clone() for name, group in scored.features.items()}
                self._base_logprobs[key] = sum(scored.base_logprobs[row])

    def base_logprob(self, key: Key) -> float:
        """Returns the log-probability of a reply under the base, nats in total."""
        return self._base_logprobs[key]

    def features(self, keys: list[Key]) -> FeatureGroups:
        """Returns the features of the replies, one row each."""
        names = self._features[keys[0]]
        return {name: torch.stack([self._features[key][name] for key in keys]) for name in names}
