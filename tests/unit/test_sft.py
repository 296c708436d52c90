"""Base samples are weighted as the optimal policy of a KL-regularised reward would sample them."""

import math
from typing import cast

import pytest
import torch

from trainer.reward.ensemble import RewardModel
from trainer.reward.features import FeatureGroups
from trainer.reward.projection import BaseFeatures
from trainer.rl.sft import weighted_base_samples


class LastFeature:
    """A reward model whose reward is the group `last`."""

    max_reward = 2.0

    def reward(self, features: FeatureGroups) -> torch.Tensor:
        return features["last"][:, 0]


def test_base_samples_have_the_weights_of_the_optimal_policy() -> None:
    prompts = [[1], [2], [3]]
    rewards = [2.0, 1.85, 0.0, -1.0, 0.0, 0.0, 0.0, 1.7]  # of four replies to each of the first two prompts
    replies = [[10 + row] for row in range(len(rewards))]
    base = BaseFeatures({"last": torch.tensor(rewards).unsqueeze(1)}, samples_per_prompt=4)
    model = cast(RewardModel, LastFeature())
    found = weighted_base_samples(prompts, replies, base, model, kl_coef=0.15)
    assert [(each.prompt_ids, each.token_ids) for each in found] == [([1], [10]), ([1], [11]), ([2], [17])]
    assert [each.weight for each in found] == pytest.approx([1, math.exp(-1), math.exp(-2)], rel=1e-4)
    assert len(weighted_base_samples(prompts, replies, base, model, kl_coef=0.0)) == 1
