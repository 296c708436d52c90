"""The engine values replies as the reward model of the trainer does, from the file that it publishes."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from schemas.errors import InvalidRequest
from schemas.policies import file_digest
from schemas.settings import RewardSettings, RLSettings
from serving.embedded.model import Model
from serving.embedded.taste_scores import TasteRequest, TasteScores
from tests.service import write_base
from trainer.model.backbone import Backbone
from trainer.records import taste_model
from trainer.reward.ensemble import RewardModel, fit
from trainer.reward.likelihood import Votes
from trainer.reward.projection import BaseFeatures
from trainer.reward.scoring import score

torch.set_num_threads(1)

PROMPT = [5, 9, 17, 40]
RATERS = 6


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("tastes") / "base")


@pytest.fixture(scope="module")
def backbone(base: Path) -> Backbone:
    return Backbone(base, RLSettings())


@pytest.fixture(scope="module")
def fitted(backbone: Backbone) -> tuple[list[list[int]], RewardModel]:
    """Replies of different lengths, and a reward model of raters whose tastes are given."""
    generator = torch.Generator().manual_seed(1)
    replies = [torch.randint(3, 50, (3 + number % 9,), generator=generator).tolist() for number in range(48)]
    features = score(backbone, [PROMPT] * len(replies), replies).features
    votes = Votes(RATERS)
    for number in range(len(replies)):
        votes.thumb(number % RATERS, number, up=bool(number % 3))
    votes.tastes_UT = torch.randn(RATERS, 2, generator=generator, dtype=torch.float64)
    settings = RewardSettings(members=3)
    return replies, fit(features, votes, BaseFeatures(features, 4), settings, generator)


def test_the_engine_agrees_with_the_trainer(
    base: Path, backbone: Backbone, fitted: tuple[list[list[int]], RewardModel], tmp_path: Path
) -> None:
    replies, model = fitted
    path = tmp_path / "tastes.safetensors"
    taste_model.write(model, backbone, path)
    scores = TasteScores(Model(base))
    request = TasteRequest(path=str(path), digest=file_digest(path), prompt=PROMPT, replies=replies[:8])
    found = scores.score(request)
    assert found["directions"] == 3
    features = score(backbone, [PROMPT] * 8, replies[:8], micro_batch=1).features
    expected_NMC = torch.stack([member.values(features) for member in model.members], 1)
    bias_M = torch.tensor([member.bias for member in model.members])
    expected_NMC = torch.cat([expected_NMC, expected_NMC[..., :1] - bias_M[:, None]], 2)
    torch.testing.assert_close(torch.tensor(found["values"]), expected_NMC, atol=0.05, rtol=0.02)


def test_a_file_that_was_changed_is_refused(
    base: Path, backbone: Backbone, fitted: tuple[list[list[int]], RewardModel], tmp_path: Path
) -> None:
    _, model = fitted
    path = tmp_path / "tastes.safetensors"
    taste_model.write(model, backbone, path)
    digest = file_digest(path)
    scores = TasteScores(Model(base))

    def refused(code: str, **changes: object) -> None:
        fields = {"path": str(path), "digest": digest, "prompt": PROMPT, "replies": [[5, 6]]}
        with pytest.raises(InvalidRequest) as error:
            scores.score(TasteRequest.model_validate(fields | changes))
        assert error.value.code == code

    refused("invalid_value", replies=[[]])
    refused("invalid_value", replies=[[10**6]])
    refused("context_length_exceeded", replies=[[5] * 300])
    refused("invalid_value", path=str(tmp_path / "none"))
    tensors, without = load_file(path), tmp_path / "without.safetensors"
    for name in ("tokens.vocabulary", "tokens.weights"):
        del tensors[name]
    with safe_open(path, framework="pt") as file:
        save_file(tensors, without, metadata=file.metadata())
    refused("invalid_value", path=str(without), digest=file_digest(without))
    path.write_bytes(path.read_bytes()[:-8])
    refused("invalid_value")
    refused("invalid_value", digest=file_digest(path))
