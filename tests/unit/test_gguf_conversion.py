"""A GGUF file becomes a model in transformers' layout with the same weights, or a clear error."""

import json
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from deploy.local.base_check import check_base
from schemas.errors import StartError
from schemas.policies import base_digest
from tests.contract.engines import TEMPLATE, shared_tokenizer
from tests.gguf_files import with_unknown_quantisation, write_gguf
from trainer.model.gguf_conversion import convert


def test_weights_tokenizer_and_template_arrive(tmp_path: Path) -> None:
    written = write_gguf(tmp_path / "tiny.gguf")
    convert(tmp_path / "tiny.gguf", tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    for name, there in {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.layers.1.mlp.down_proj.weight": "blk.1.ffn_down.weight",
    }.items():
        expected = torch.from_numpy(np.array(written[there])).bfloat16()
        assert torch.equal(weights[name], expected), name
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    text = "The cat is in Paris 🙂 <|end|>"
    assert tokenizer.encode(text) == shared_tokenizer().encode(text)
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.eos_token == "<|end|>"
    check_base(tmp_path / "model")


def test_the_digest_names_no_library(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    convert(tmp_path / "tiny.gguf", tmp_path / "model")
    convert(tmp_path / "tiny.gguf", tmp_path / "again")
    assert base_digest(tmp_path / "model") == base_digest(tmp_path / "again")
    texts = [path.read_text("utf-8") for path in (tmp_path / "model").glob("*config.json")]
    assert len(texts) == 2
    assert not [text for text in texts if "version" in text or str(tmp_path) in text]


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_is_tied_or_its_own(tied: bool, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", tied=tied)
    convert(tmp_path / "tiny.gguf", tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["tie_word_embeddings"] is tied
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight) is tied
    assert ("lm_head.weight" in load_file(tmp_path / "model" / "model.safetensors")) is not tied


def test_an_unknown_quantisation_is_named(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    with_unknown_quantisation(tmp_path / "tiny.gguf", "blk.0.ffn_up.weight")
    with pytest.raises(StartError, match=r"tiny\.gguf cannot be converted.*99"):
        convert(tmp_path / "tiny.gguf", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_truncated_file_cannot_be_converted(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    whole = (tmp_path / "tiny.gguf").read_bytes()
    (tmp_path / "tiny.gguf").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StartError, match=r"tiny\.gguf cannot be converted"):
        convert(tmp_path / "tiny.gguf", tmp_path / "model")


def test_a_file_without_some_tensor_cannot_be_converted(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", without="blk.1.attn_v.weight")
    with pytest.raises(StartError, match=r"tiny\.gguf cannot be converted.*v_proj"):
        convert(tmp_path / "tiny.gguf", tmp_path / "model")


@pytest.mark.parametrize("full", ["tokenizer.json", "config.json"])
def test_a_disk_that_fills_is_named(full: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / full).symlink_to("/dev/full")  # every write fails with ENOSPC
    with pytest.raises(StartError, match="disk became full"):
        convert(tmp_path / "tiny.gguf", tmp_path / "model")


def test_a_disk_without_room_for_the_weights_is_named(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
        with pytest.raises(StartError, match="disk became full"):
            convert(tmp_path / "tiny.gguf", tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "model").iterdir())
