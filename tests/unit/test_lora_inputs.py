"""On a base in bfloat16, LoRA keeps its inputs once: the same gradients from less memory."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.settings import RLSettings
from tests.contract.engines import shared_tokenizer
from trainer.model import backbone as module
from trainer.model.adapter import save_adapter
from trainer.model.backbone import Backbone
from trainer.model.batch import PaddedBatch, padded_width
from trainer.model.memory import TokenBytes, token_budget
from trainer.planning.fake_model import FakeBackbone
from trainer.rl.guard import ADAPTER_COPIES

torch.set_num_threads(1)

RL = RLSettings(rank=4, alpha=8)

GPU_MEMORY = 80 * 10**9

LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096,
    "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "vocab_size": 128256, "max_position_embeddings": 8192, "tie_word_embeddings": False, "eos_token_id": 1,
    "pad_token_id": 0,
}  # fmt: skip


class InBfloat16(Backbone):
    """A base as it is on a GPU."""

    def _load_base(self, dtype: torch.dtype) -> Any:
        return super()._load_base(torch.bfloat16)


def gradients(backbone: Backbone, batch: PaddedBatch) -> tuple[torch.Tensor, list[torch.Tensor]]:
    with backbone.without_autocast():
        logprobs_BR = backbone.logprobs_BR(batch)
    return logprobs_BR.detach(), list(torch.autograd.grad(logprobs_BR.square().sum(), backbone.trainable()))


@torch.no_grad()
def test_full_precision_is_that_of_float32(tiny_base: Path) -> None:
    """And afterwards the weights are in bfloat16 again."""
    rounded, exact = InBfloat16(tiny_base, RL), InBfloat16(tiny_base, RL)
    exact.model.float()
    for one, other in zip(rounded.trainable(), exact.trainable(), strict=True):
        one += 0.1
        other.copy_(one)
    batch = rounded.pad([[5, 6, 7], [8, 9]], [[10, 11, 12, 13], [14, 15]])
    types = [weight.dtype for weight in rounded.model.parameters()]
    with exact.full_precision():
        expected_BR = exact.logprobs_BR(batch)
    with rounded.full_precision():
        torch.testing.assert_close(rounded.logprobs_BR(batch), expected_BR, rtol=1e-5, atol=1e-5)
    with rounded.without_autocast():
        assert float((rounded.logprobs_BR(batch) - expected_BR).abs().max()) > 1e-3
    assert [weight.dtype for weight in rounded.model.parameters()] == types


def test_gradients_are_the_same_as_peft_computes(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = InBfloat16(tiny_base, RL)
    monkeypatch.setattr(module, "keep_inputs_once", lambda model: None)
    pefts = InBfloat16(tiny_base, RL)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for one, other in zip(ours.trainable(), pefts.trainable(), strict=True):
            one += torch.randn(one.shape, generator=generator) * 0.1
            other.copy_(one)
    batch = ours.pad([[5, 6, 7], [8, 9]], [[10, 11, 12, 13], [14, 15]])
    (logprobs_BR, found), (expected_BR, expected) = gradients(ours, batch), gradients(pefts, batch)
    assert torch.equal(logprobs_BR, expected_BR)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    monkeypatch.undo()
    save_adapter(ours, tmp_path / "adapter")
    ours.load_adapter(tmp_path / "adapter")
    again_BR, again = gradients(ours, batch)
    assert torch.equal(again_BR, logprobs_BR)
    assert all(torch.equal(one, other) for one, other in zip(again, found, strict=True))


def test_a_base_in_float32_is_left_as_peft_made_it(tiny_base: Path) -> None:
    assert not any("CastingLinear" in type(each).__name__ for each in Backbone(tiny_base, RL).model.modules())


@pytest.mark.slow
def test_a_base_of_8b_trains_on_a_card_of_80_gb(tmp_path: Path) -> None:
    """With replies of 90 tokens to prompts of 512, ten at once."""
    shared_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    backbone = FakeBackbone(tmp_path, RLSettings(), on_gpu=True)
    with backbone.mode:
        count = TokenBytes.count(backbone)
    weights = sum(weight.nbytes for weight in backbone.model.parameters())
    assert 15e9 < weights < 17e9
    adapter = sum(weight.nbytes for weight in backbone.trainable())
    found = token_budget(backbone, count, GPU_MEMORY - weights - ADAPTER_COPIES * adapter, copies=4)
    assert found.training >= 10 * padded_width(512, 90)
    assert found.row >= 6_000
