"""Heads have a share in the reward only where held-out votes are more likely with them, beyond chance."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from schemas.settings import RLSettings
from tests.service import write_base
from trainer.data import lora_heads_fit
from trainer.data.examples import Reply
from trainer.data.lora_heads_fit import FORWARD, HELD_OUT_SHARE, best_share
from trainer.data.split import RoundData
from trainer.model.backbone import Backbone
from trainer.model.rollouts import Rollout
from trainer.reward.lora_heads import EPOCHS

NOTHING = torch.zeros(40)


def test_the_share_with_the_largest_gain_is_chosen() -> None:
    noise = torch.linspace(-0.1, 0.1, 40)
    gains = {0.0: NOTHING, 0.5: 0.2 + noise, 1.0: 0.1 + noise}
    assert best_share(gains) == 0.5


def test_a_gain_within_chance_is_none() -> None:
    noise = torch.linspace(-1.0, 1.0, 40)
    assert best_share({0.0: NOTHING, 0.5: 0.05 + noise}) == 0.0
    assert best_share({0.0: NOTHING, 0.5: noise - 1}) == 0.0


def test_a_single_vote_decides_nothing() -> None:
    assert best_share({0.0: torch.zeros(1), 1.0: torch.ones(1)}) == 0.0
    assert best_share({0.0: torch.zeros(0), 1.0: torch.zeros(0)}) == 0.0


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    directory: Path = write_base(tmp_path_factory.mktemp("base"))
    return Backbone(directory, RLSettings())


def planned(backbone: Backbone, tokens: float) -> lora_heads_fit._Plan:
    """Returns the plan of a round with ten votes on replies of 20 tokens to prompts of 30, of which people
    cast each other one, and two held-out votes alike; the base gave one reply."""
    votes = [SimpleNamespace(reply_keys=(number,), by_person=number % 2 == 0) for number in range(12)]
    data = SimpleNamespace(
        backbone=backbone, train_prompts=[[1] * 30], inputs=SimpleNamespace(lora_tokens=tokens),
        corpus=SimpleNamespace(replies={number: Reply([1] * 30, [2] * 20) for number in range(12)}),
        training=votes[:10], held_out=votes[10:],
    )  # fmt: skip
    sampled = [cast(Rollout, SimpleNamespace(prompt=0, token_ids=[2] * 20))]
    return lora_heads_fit._Plan.of(cast(RoundData, data), sampled)


def test_the_newest_votes_that_there_is_time_for_have_heads(backbone: Backbone) -> None:
    base = vote = FORWARD * 50
    read = 20 * (1 - 1 / 2)  # by one of two layers
    tokens = base + 3.5 * (vote + EPOCHS * read) / (1 - HELD_OUT_SHARE)
    plan = planned(backbone, tokens)
    assert plan.training == [9, 8, 7]
    assert plan.people == 1
    assert planned(backbone, 1e6).training == list(reversed(range(10)))
    assert planned(backbone, 1e6).held_out == [1, 0]
    assert planned(backbone, base).training == planned(backbone, base).held_out == []


def test_the_hidden_states_of_their_replies_fit_into_memory(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = 2 * 64 * 20  # bytes
    monkeypatch.setattr(lora_heads_fit, "MAX_BYTES", 4.5 * reply / (1 - HELD_OUT_SHARE))
    assert planned(backbone, 1e6).training == [9, 8, 7, 6]
