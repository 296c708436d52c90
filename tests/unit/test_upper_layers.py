"""The upper layers run alone as they run in the whole base, with an adapter that touches nothing else."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from schemas.settings import RLSettings
from tests.contract.engines import random_model, shared_tokenizer
from trainer.model.backbone import Backbone
from trainer.model.upper_layers import UpperLayers

torch.set_num_threads(1)

REPLIES = [[9, 17, 40, 41, 42], [99, 120, 77]]


@pytest.fixture(scope="module", params=["llama", "qwen3", "gemma3"])
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    directory: Path = tmp_path_factory.mktemp(request.param)
    tokenizer = shared_tokenizer()
    tokenizer.save_pretrained(directory)
    random_model(request.param, len(tokenizer)).save_pretrained(directory)
    found = Backbone(directory, RLSettings(rank=4, alpha=8))
    with torch.no_grad():
        for weight in found.trainable():
            weight.normal_(std=0.1)
    return found


def states(*lengths: int) -> tuple[Tensor, Tensor]:
    """Returns hidden states of rows of these lengths, and their mask."""
    states_BRD = torch.randn(len(lengths), max(lengths), 64, generator=torch.Generator().manual_seed(3))
    mask_BR = (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)).float()
    return states_BRD, mask_BR


def logprobs(backbone: Backbone) -> Tensor:
    prompt = backbone.render([{"role": "user", "content": "hello"}])
    with torch.no_grad(), backbone.full_precision():
        return backbone.logprobs_BR(backbone.pad([prompt, prompt], REPLIES))


def test_with_a_zero_lora_they_end_where_the_whole_base_ends(backbone: Backbone) -> None:
    upper = UpperLayers(backbone, 1, 2, seed=0)
    assert upper.reproduces_base()
    with torch.no_grad():
        for weight in upper.parameters:
            weight.normal_(std=0.5)
    assert not upper.reproduces_base()
    upper.remove()


def test_neither_padding_nor_tokens_that_are_not_read_count(backbone: Backbone) -> None:
    upper = UpperLayers(backbone, 1, 2, seed=0)
    states_BRD, mask_BR = states(6, 3)
    with torch.no_grad(), backbone.full_precision():
        together_BRD = upper(states_BRD, mask_BR)
        alone_1RD = upper(states_BRD[1:, :3], mask_BR[1:, :3])
        holes_BR = mask_BR.clone()
        holes_BR[0, 1:4] = 0
        read = [0, 4, 5]
        without_1RD = upper(states_BRD[:1, read], mask_BR[:1, read])
        apart_BRD = upper(states_BRD, holes_BR)
    upper.remove()
    torch.testing.assert_close(together_BRD[1:, :3], alone_1RD, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(apart_BRD[:1, read], without_1RD, rtol=1e-3, atol=1e-4)


def test_training_them_leaves_the_policy_and_the_base_as_they_are(backbone: Backbone) -> None:
    trained = [id(each) for each in backbone.trainable()]
    with backbone.reference():
        base_BR = logprobs(backbone)
    policy_BR = logprobs(backbone)
    assert not torch.equal(base_BR, policy_BR)
    upper = UpperLayers(backbone, 1, 2, seed=0)
    optimizer = torch.optim.SGD(upper.parameters, 0.1)
    states_BRD, mask_BR = states(6, 3)
    with torch.no_grad():
        before_BRD = upper(states_BRD, mask_BR)
    for _ in range(2):
        optimizer.zero_grad()
        upper(states_BRD, mask_BR)[..., 0].sum().backward()
        assert all(each.grad is None for each in backbone.model.parameters() if id(each) in trained)
        optimizer.step()
    with torch.no_grad(), backbone.reference():
        after_BRD = upper(states_BRD, mask_BR)
        torch.testing.assert_close(logprobs(backbone), base_BR, rtol=0, atol=0)
    assert not torch.allclose(before_BRD, after_BRD)
    torch.testing.assert_close(logprobs(backbone), policy_BR, rtol=0, atol=0)
    assert [id(each) for each in backbone.trainable()] == trained
    upper.remove()
    assert list(backbone.model.peft_config) == ["default"]
    torch.testing.assert_close(logprobs(backbone), policy_BR, rtol=0, atol=0)
