"""Heads on a LoRA of the base learn what votes say of replies, and say it of each reply as far as it goes."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from schemas.settings import RLSettings
from tests.service import write_base
from trainer.model.backbone import Backbone
from trainer.model.upper_layers import UpperLayers
from trainer.reward import lora_heads
from trainer.reward.likelihood import NuisanceParameters, Votes
from trainer.reward.lora_heads import LORA_HEADS, HeadVotes, LoraHeads
from trainer.reward.scoring import PREFIX_STRIDE, score, upper_inputs

torch.set_num_threads(1)

MEMBERS, REPLIES = 3, 48


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    found = Backbone(write_base(tmp_path_factory.mktemp("base")), RLSettings())
    found.bf16_autocast = False
    return found


@pytest.fixture
def upper(backbone: Backbone) -> Iterator[UpperLayers]:
    found = UpperLayers(backbone, 1, 4, seed=0)
    yield found
    found.remove()


def replies() -> tuple[list[Tensor], list[bool]]:
    """Returns the hidden states of replies, and whether people like them: for the order of two of their
    tokens, which no mean of states tells."""
    generator = torch.Generator().manual_seed(5)
    one_D, other_D = torch.randn(2, 64, generator=generator)
    found, liked = [], []
    for number in range(REPLIES):
        states_RD = 0.3 * torch.randn(4 + number % 5, 64, generator=generator)
        first, second = (one_D, other_D) if number % 2 else (other_D, one_D)
        states_RD[0], states_RD[2] = first, second
        found.append(states_RD)
        liked.append(bool(number % 2))
    return found, liked


def head_votes(states: list[Tensor], liked: list[bool]) -> HeadVotes:
    votes = Votes(2)
    for row, up in enumerate(liked):
        votes.thumb(row % 2, row, up)
    nuisance = NuisanceParameters.unpack(torch.zeros(NuisanceParameters.size(2)).double(), 2)
    bootstrap_MV = torch.ones(MEMBERS, votes.count, dtype=torch.float64)
    return HeadVotes(votes, dict(enumerate(states)), [nuisance] * MEMBERS, torch.zeros(MEMBERS), bootstrap_MV)


def fitted(upper: UpperLayers, data: HeadVotes, tokens: int = 10_000) -> LoraHeads:
    base = list(data.states.values())[:16]
    return lora_heads.fit(upper, data, base, tokens, torch.Generator().manual_seed(1))


def right(heads: LoraHeads, states: list[Tensor], liked: list[bool]) -> float:
    up_N = heads.all_logits(states).mean(1) > 0
    return float((up_N == torch.tensor(liked)).float().mean())


def test_the_lora_learns_what_no_head_of_the_base_can(
    upper: UpperLayers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora_heads, "EPOCHS", 12)
    states, liked = replies()
    heads = fitted(upper, head_votes(states, liked))
    assert right(heads, states, liked) > 0.9
    assert all(bool((each != 0).any()) for each in upper.parameters)


def test_the_same_votes_and_seed_give_the_same_bytes(backbone: Backbone) -> None:
    states, liked = replies()
    found = []
    for _ in range(2):
        upper = UpperLayers(backbone, 1, 4, seed=0)
        found.append(fitted(upper, head_votes(states, liked)).all_logits(states))
        upper.remove()
    assert torch.equal(*found)


def test_votes_of_no_weight_teach_nothing(upper: UpperLayers) -> None:
    states, liked = replies()
    data = head_votes(states, liked)
    data.bootstrap_MV[:, REPLIES // 2 :] = 0
    few = {row: states_RD for row, states_RD in data.states.items() if row < REPLIES // 2}
    heads = fitted(upper, HeadVotes(data.votes, few, data.nuisance, data.bias_M, data.bootstrap_MV))
    assert bool(heads.all_logits(states).isfinite().all())


def test_a_reply_has_the_logits_of_its_last_token(upper: UpperLayers) -> None:
    states, liked = replies()
    heads = fitted(upper, head_votes(states, liked))
    cut = states[3][:2]
    with torch.no_grad():
        by_token_1RM = heads.by_token(states[3].unsqueeze(0), torch.ones(1, len(states[3])))
    torch.testing.assert_close(heads.all_logits([cut]), by_token_1RM[:, 1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(heads.all_logits([states[3]]), by_token_1RM[:, -1], rtol=1e-3, atol=1e-4)


def test_scored_replies_and_their_prefixes_are_valued_by_the_heads(
    backbone: Backbone, upper: UpperLayers
) -> None:
    states, liked = replies()
    heads = fitted(upper, head_votes(states, liked))
    prompts, written = [[5, 9, 17], [40, 41]], [[9, 17, 40, 41, 42], list(range(20, 40))]
    scored = score(
        backbone, prompts, written, reward=lambda features: features[LORA_HEADS].mean(1), heads=heads
    )
    read = upper_inputs(backbone, prompts, written, upper.layer)
    torch.testing.assert_close(scored.features[LORA_HEADS], heads.all_logits(read), rtol=1e-2, atol=1e-2)
    begun = float(heads.all_logits([read[1][:PREFIX_STRIDE]]).mean())
    assert scored.values[1][PREFIX_STRIDE - 1] == 0
    assert scored.values[1][PREFIX_STRIDE] == pytest.approx(begun, abs=1e-2)


def test_a_step_has_no_more_tokens_than_it_may() -> None:
    states, liked = replies()
    data = head_votes(states, liked)
    rows_of = data.votes.replies()
    every = torch.arange(data.votes.count)
    steps = lora_heads._steps(every, rows_of, data.states, 20, torch.Generator().manual_seed(0))
    assert sorted(vote for step in steps for vote in step) == every.tolist()
    for step in steps:
        lengths = [len(states[row]) for vote in step for row in rows_of[vote]]
        assert len(lengths) * max(lengths) <= 20
