"""What a round makes of its inputs before it learns."""

import math
from typing import cast

import pytest
import torch

from schemas.settings import RLSettings, TrainerSettings
from tests.service import write_base
from trainer.data.examples import Corpus
from trainer.data.round_inputs import RoundInputs
from trainer.evaluation.gate import Answers
from trainer.model.backbone import Backbone
from trainer.model.rollouts import SamplingSpec, sample
from trainer.reward.ensemble import RewardModel
from trainer.reward.scoring import score
from trainer.round import BASE_REPLIES, Round, exemplars

torch.set_num_threads(1)

SETTINGS = TrainerSettings(rl=RLSettings(max_tokens=40))
INPUTS = RoundInputs(draw=1, parent="p0", votes=0, events=[], turns=[], positions={})


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return Backbone(write_base(tmp_path_factory.mktemp("round") / "tiny"), SETTINGS.rl)


def test_prompts_are_read_as_they_were_answered_however_long_the_replies_are(backbone: Backbone) -> None:
    prompts = {
        f"t{turn}": [3 + (7 * turn + place) % 200 for place in range(backbone.context_length - turn)]
        for turn in range(12)
    }
    work = Round(backbone, SETTINGS, INPUTS, Corpus([], {}), prompts)
    assert len(work.practice) + len(work.exam) == 12
    asked = [*work.practice, *work.exam]
    assert {len(prompt) for prompt in asked} == {backbone.context_length - SETTINGS.rl.max_tokens}
    rollouts = sample(
        backbone, asked, SamplingSpec(1, SETTINGS.rl.max_tokens), torch.Generator().manual_seed(0)
    )
    with backbone.full_precision():
        measured = score(backbone, asked, [rollout.token_ids[:5] for rollout in rollouts])
    for rollout, base_logprobs in zip(rollouts, measured.base_logprobs, strict=True):
        assert base_logprobs == pytest.approx(rollout.logprobs[:5], abs=1e-3)


class Rewarding:
    """The reward is the last number of the view."""

    most = 2.0

    def reward(self, views: dict[str, torch.Tensor]) -> torch.Tensor:
        return views["last"][:, 0]


def test_what_the_base_says_is_shown_as_often_as_the_best_policy_would_say_it() -> None:
    prompts = [[1], [2], [3]]
    rewards = [2.0, 1.85, 0.0, -1.0, 0.0, 0.0, 0.0, 1.7]  # to the first two prompts
    replies = [[10 + row] for row in range(len(rewards))]
    base = Answers(replies, 1.0, 0.0, 0.8, {"last": torch.tensor(rewards).unsqueeze(1)})
    assert len(rewards) == 2 * BASE_REPLIES
    shown = exemplars(prompts, base, cast(RewardModel, Rewarding()), beta=0.15)
    assert [(each.prompt_ids, each.token_ids) for each in shown] == [([1], [10]), ([1], [11]), ([2], [17])]
    assert [each.weight for each in shown] == pytest.approx([1, math.exp(-1), math.exp(-2)], rel=1e-4)
    assert len(exemplars(prompts, base, cast(RewardModel, Rewarding()), beta=0.0)) == 1
