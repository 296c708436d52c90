"""The embedded engine's LoRA layers give what PEFT's give, also over bfloat16 matrices."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from serving.embedded import model as embedded_model
from serving.embedded.lora import AdapterError
from serving.embedded.model import Model
from tests.contract.engines import random_model, shared_tokenizer

IDS = [5, 9, 17, 40, 41, 42, 99, 120, 77, 3, 250, 11]


@pytest.fixture(scope="module", params=["float32", "bfloat16", "bfloat16-biases"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base whose weights are stored in this type, with or without biases."""
    directory = tmp_path_factory.mktemp(request.param)
    tokenizer = shared_tokenizer()
    tokenizer.save_pretrained(directory)
    model = random_model("llama", len(tokenizer))
    if "biases" in request.param:
        model.config.attention_bias = True
        model = type(model)(model.config)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter)
    model.to(getattr(torch, request.param.partition("-")[0])).save_pretrained(directory)
    return directory


def write(base: Path, directory: Path, *, seed: int = 1, **fields: Any) -> Path:
    """Writes an adapter with a random B, or with zeros where the seed is 0."""
    torch.manual_seed(seed)
    model = PeftModel(of(base), LoraConfig(**{"r": 4, "target_modules": "all-linear", **fields}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name and seed:
                parameter.normal_(std=0.2)
    model.save_pretrained(directory)
    return directory


def of(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


def expected(model: Any) -> Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=torch.tensor([IDS])).logits[0, :-1].log_softmax(-1)


def difference(left: Tensor, right: Tensor) -> float:
    """Returns the mean absolute difference of the log-probabilities of IDS, nats."""
    at = torch.tensor(IDS[1:])[:, None]
    return float((left.gather(-1, at) - right.gather(-1, at)).abs().mean())


@pytest.mark.parametrize(
    "fields",
    [
        {"lora_alpha": 8},
        {"use_rslora": True, "r": 9},
        {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1]},
    ],
    ids=["plain", "rslora", "one layer"],
)
def test_an_adapter_gives_what_peft_gives(base: Path, tmp_path: Path, fields: dict[str, Any]) -> None:
    """Float32 weights give the same; the products of bfloat16 ones differ by their rounding."""
    directory = write(base, tmp_path / "adapter", **fields)
    reference = expected(PeftModel.from_pretrained(of(base), directory))
    model = Model(base)
    model.load_adapter("one", directory)
    found = difference(model.logprobs("one", IDS), reference)
    assert found < (0.02 if "bfloat16" in base.name else 1e-5)
    assert difference(expected(of(base)), reference) > 4 * found


def test_adapters_come_and_go(base: Path, tmp_path: Path) -> None:
    model = Model(base)
    without = model.logprobs("none", IDS)
    for name, seed in {"zero": 0, "one": 1, "two": 2}.items():
        model.load_adapter(name, write(base, tmp_path / name, seed=seed))
    one, two = model.logprobs("one", IDS), model.logprobs("two", IDS)
    assert torch.equal(model.logprobs("zero", IDS), without)
    assert min(difference(one, without), difference(two, without), difference(one, two)) > 0.05
    model.unload_adapter("one")
    assert torch.equal(model.logprobs("two", IDS), two)
    assert torch.equal(model.logprobs("one", IDS), without)


def test_without_instructions_for_bfloat16_the_weights_are_float32(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_model, "_multiplies_bfloat16", lambda: False)
    assert difference(Model(base).logprobs("none", IDS), expected(of(base))) < 1e-5


def test_lora_that_is_not_plain_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="use_dora"):
        Model(base).load_adapter("one", write(base, tmp_path / "dora", use_dora=True))
