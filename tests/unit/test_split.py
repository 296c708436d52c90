"""The train/eval split of a round's prompts."""

import pytest
import torch

from schemas.settings import RLSettings, TrainerSettings
from tests.service import write_base
from trainer.data.examples import Corpus
from trainer.data.round_inputs import RoundInputs
from trainer.data.split import RoundData
from trainer.model.backbone import Backbone
from trainer.model.rollouts import SamplingSpec, sample
from trainer.reward.scoring import score

torch.set_num_threads(1)

SETTINGS = TrainerSettings(rl=RLSettings(max_tokens=40))
INPUTS = RoundInputs(draw=1, parent="p0", votes=0, events=[], turns=[], positions={})


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return Backbone(write_base(tmp_path_factory.mktemp("split") / "tiny"), SETTINGS.rl)


def test_prompts_are_read_as_they_were_answered_however_long_the_replies_are(backbone: Backbone) -> None:
    prompts = {
        f"t{turn}": [3 + (7 * turn + place) % 200 for place in range(backbone.context_length - turn)]
        for turn in range(12)
    }
    data = RoundData(backbone, SETTINGS, INPUTS, Corpus([], {}), prompts)
    assert len(data.train_prompts) + len(data.eval_prompts) == 12
    asked = [*data.train_prompts, *data.eval_prompts]
    assert {len(prompt) for prompt in asked} == {backbone.context_length - SETTINGS.rl.max_tokens}
    with backbone.full_precision():
        rollouts = sample(
            backbone, asked, SamplingSpec(1, SETTINGS.rl.max_tokens), torch.Generator().manual_seed(0)
        )
        measured = score(backbone, asked, [rollout.token_ids[:5] for rollout in rollouts])
    for rollout, base_logprobs in zip(rollouts, measured.base_logprobs, strict=True):
        assert base_logprobs == pytest.approx(rollout.logprobs[:5], abs=1e-3)
