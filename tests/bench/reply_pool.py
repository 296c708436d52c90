"""A pool has replies of the base with their features, so that a bench reads what people liked without RL."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from deploy.local.base_model import base_directory
from schemas.settings import TrainerSettings
from serving.person_weights import Values
from tests.bench.disjoint import assert_disjoint
from tests.bench.everyday_prompts import HELD_OUT, SPARE, TRAFFIC
from tests.bench.offline_learning import REPLY_TOKENS
from tests.bench.served_replies import BaseReplies, ServedAt
from tests.bench.tastes import Taste, with_room
from trainer.data.hyperparameters import BASE_SAMPLES
from trainer.evaluation.questions import is_starter
from trainer.model.backbone import Backbone
from trainer.model.device import with_threads
from trainer.model.rollouts import SamplingSpec, sample
from trainer.reward.ensemble import RewardModel
from trainer.reward.features import FeatureGroups
from trainer.reward.projection import BaseFeatures
from trainer.reward.scoring import score

EVERYDAY_TOKENS, EVERYDAY_REPLIES, EVERYDAY_JUDGED = 64, 8, 32
"""Longest everyday reply, tokens; replies to each prompt that people send, and to each that is judged."""


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

    def of(self, rows: Sequence[int]) -> "Pool":
        """Returns the replies of these rows."""
        features = {name: group[list(rows)] for name, group in self.features.items()}
        return Pool([self.texts[row] for row in rows], features)

    def values_NMC(self, model: RewardModel) -> Values:
        """Returns the (N, M, C) values of the taste model that the trainer would publish."""
        found = torch.stack([member.values(self.features) for member in model.members], 1)
        if model.people is not None:
            bias_M1 = torch.tensor([[member.bias] for member in model.members])
            found = torch.cat([found, found[..., :1] - bias_M1], 2)
        return found.double().numpy()


@dataclass(frozen=True, slots=True)
class Everyday:
    """Replies of a base to everyday prompts, at its own defaults but for their length: what people vote on,
    what is judged, and the base's samples."""

    sent: Pool
    judged: Pool
    samples: Pool

    @classmethod
    def of(cls, backbone: Backbone) -> "Everyday":
        assert_disjoint(sent=TRAFFIC, judged=HELD_OUT, based=SPARE)
        return cls(
            cls.served(backbone, TRAFFIC, EVERYDAY_REPLIES),
            cls.served(backbone, HELD_OUT, EVERYDAY_JUDGED),
            cls.served(backbone, SPARE, BASE_SAMPLES),
        )

    @staticmethod
    def served(backbone: Backbone, asked: Sequence[str], count: int) -> Pool:
        served_at = ServedAt.by_default(backbone.directory)
        return Pool.served(backbone, replace(served_at, max_tokens=EVERYDAY_TOKENS), asked, count)

    @property
    def base(self) -> BaseFeatures:
        return BaseFeatures(self.samples.features, BASE_SAMPLES)

    def tastes(self) -> dict[str, Taste]:
        """Returns the tastes that leave room, but for those that ask for a length: replies are cut."""
        room = with_room(self.samples.texts)
        return {name: each for name, each in room.items() if not each.asks_for_length}


def base_of(model: str) -> tuple[Backbone, Everyday | None]:
    """Loads `starter`, `smollm2` or a directory; with its everyday replies where it is not the starter."""
    directory = base_directory(model)
    trainer = with_threads(TrainerSettings(), directory)
    torch.set_num_threads(trainer.threads or 1)
    backbone = Backbone(directory, trainer.rl)
    return backbone, None if is_starter(directory) else Everyday.of(backbone)


def _rendered(backbone: Backbone, asked: Sequence[str]) -> list[list[int]]:
    return [backbone.render([{"role": "user", "content": prompt}]) for prompt in asked]
