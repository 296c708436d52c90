"""A pool has replies of the base with their features, so that a bench reads what people liked without RL."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tests.bench.offline_learning import REPLY_TOKENS
from tests.bench.served_replies import BaseReplies, ServedAt
from trainer.model.backbone import Backbone
from trainer.model.rollouts import SamplingSpec, sample
from trainer.reward.features import FeatureGroups
from trainer.reward.scoring import score


@dataclass(frozen=True, slots=True)
class Pool:
    """The texts and features of N replies, equally many to each prompt, one prompt after the other."""

    texts: list[str]
    features: FeatureGroups

    @classmethod
    def sampled(cls, backbone: Backbone, asked: Sequence[str], count: int, seed: int) -> "Pool":
        """Samples `count` replies to each prompt at temperature 1."""
        ids = _rendered(backbone, asked)
        generator = torch.Generator().manual_seed(seed)
        with backbone.reference():
            found = sample(backbone, ids, SamplingSpec(count, REPLY_TOKENS), generator)
        return cls._of(backbone, [ids[each.prompt] for each in found], [each.token_ids for each in found])

    @classmethod
    def served(cls, backbone: Backbone, served_at: ServedAt, asked: Sequence[str], count: int) -> "Pool":
        """Returns `count` replies to each prompt as people are served them, which are kept on disk."""
        replies = BaseReplies(backbone, served_at).of(asked, count)
        prompts = [ids for ids in _rendered(backbone, asked) for _ in range(count)]
        return cls._of(backbone, prompts, [each for of_prompt in replies for each in of_prompt])

    @classmethod
    def _of(cls, backbone: Backbone, prompts: list[list[int]], replies: list[list[int]]) -> "Pool":
        texts = [backbone.decode(each) for each in replies]
        return cls(texts, score(backbone, prompts, replies).features)

    def __add__(self, other: "Pool") -> "Pool":
        features = {name: torch.cat([group, other.features[name]]) for name, group in self.features.items()}
        return Pool([*self.texts, *other.texts], features)


def _rendered(backbone: Backbone, asked: Sequence[str]) -> list[list[int]]:
    return [backbone.render([{"role": "user", "content": prompt}]) for prompt in asked]
