"""SmolLM2 from its wheel: converted on first use, right, and found again."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from deploy.local.base_model import base_directory, licence
from deploy.local.smollm2 import TEMPERATURE, TOP_P
from schemas.policies import base_digest
from trainer.model.tokenizer import ChatTokenizer

DIGEST = "3335d752462ae1c9670a3aa3037b9515541402fcf171b896ff3d0b08778ce12e"
"""The digest of the base, by which policies know it: the same on every machine."""


@pytest.mark.slow
def test_the_first_use_converts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    directory = base_directory("smollm2")
    assert directory == tmp_path / "hearken" / "smollm2"
    assert base_digest(directory) == DIGEST
    assert licence(directory) == "apache-2.0"

    tokenizer = ChatTokenizer(directory)
    assert [tokenizer.tokenizer.decode(token) for token in tokenizer.eos_ids] == ["<|im_end|>"]
    defaults = GenerationConfig.from_pretrained(directory)
    assert (defaults.do_sample, defaults.temperature, defaults.top_p) == (True, TEMPERATURE, TOP_P)
    assert defaults.eos_token_id == tokenizer.eos_ids[0]

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    prompt = tokenizer.render([{"role": "user", "content": "What is the capital of France?"}])
    reply = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=16)[0, len(prompt) :]
    assert "Paris" in tokenizer.decode(reply.tolist())

    made = (directory / "model.safetensors").stat().st_ino
    assert base_directory("smollm2") == directory
    assert (directory / "model.safetensors").stat().st_ino == made
