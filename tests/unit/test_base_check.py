"""A base whose files do not fit together is refused at the start, with the reason."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from deploy.local.base_check import check_base
from deploy.local.base_model import base_directory
from schemas.errors import StartError
from schemas.settings import RLSettings
from serving.embedded.model import Model
from trainer.model.backbone import Backbone


def changed(path: Path, **fields: Any) -> None:
    """Changes fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | fields), encoding="utf-8")


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


def test_a_whole_base_passes(base: Path, starter: Path) -> None:
    check_base(base)
    assert base_directory(str(base)) == base
    check_base(starter)


@pytest.mark.parametrize("left", [0, 7, 100, 0.5, -1])
def test_truncated_weights(left: float, base: Path) -> None:
    weights = base / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: int(len(content) * left)] if isinstance(left, float) else content[:left])
    with pytest.raises(StartError, match=r"model\.safetensors.*truncated"):
        base_directory(str(base))


def test_a_pointer_instead_of_weights(base: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 269060552\n"
    (base / "model.safetensors").write_text(pointer)
    with pytest.raises(StartError, match=r"no safetensors file, or truncated \(\d+ bytes\)"):
        check_base(base)


def test_a_damaged_header(base: Path) -> None:
    weights = base / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[8:12] = b"\xff\xff\xff\xff"
    weights.write_bytes(content)
    with pytest.raises(StartError, match="header is damaged"):
        check_base(base)


def test_a_file_of_weights_is_missing(base: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(StartError, match=r"model-00002-of-00002\.safetensors is missing"):
        check_base(base)


def test_embeddings_and_configuration_differ(base: Path) -> None:
    changed(base / "config.json", vocab_size=999)
    with pytest.raises(StartError, match=r"embeddings for 325 tokens, but config\.json says 999"):
        check_base(base)


def test_a_token_without_an_embedding(base: Path) -> None:
    tokenizer = json.loads((base / "tokenizer.json").read_text("utf-8"))
    tokenizer["model"]["vocab"]["ofanothermodel"] = 325
    changed(base / "tokenizer.json", model=tokenizer["model"])
    with pytest.raises(
        StartError, match=r"'ofanothermodel' with the id 325, but there are embeddings for 325"
    ):
        check_base(base)


@pytest.mark.parametrize("written", [True, False])
def test_a_special_token_without_an_embedding_counts_if_the_template_writes_it(
    written: bool, base: Path
) -> None:
    added = json.loads((base / "tokenizer.json").read_text("utf-8"))["added_tokens"]
    added.append({**added[0], "id": 325, "content": "<image>", "special": True})
    changed(base / "tokenizer.json", added_tokens=added)
    if written:
        with (base / "chat_template.jinja").open("a") as template:
            template.write("<image>")
        with pytest.raises(StartError, match="'<image>' with the id 325"):
            check_base(base)
    else:
        check_base(base)


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_is_missing_only_if_it_is_not_tied(tied: bool, base: Path) -> None:
    weights = {
        name: tensor
        for name, tensor in load_file(base / "model.safetensors").items()
        if "lm_head" not in name
    }
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    changed(base / "config.json", tie_word_embeddings=tied)
    if tied:
        check_base(base)
    else:
        with pytest.raises(StartError, match=r"no head.*lm_head\.weight"):
            check_base(base)


@pytest.mark.parametrize("load", [Model, lambda directory: Backbone(directory, RLSettings())])
def test_engine_and_trainer_refuse_weights_that_lack_a_tensor(
    load: Callable[[Path], object], base: Path
) -> None:
    weights = load_file(base / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StartError, match=r"its weights lack model\.layers\.1\.mlp\.down_proj\.weight"):
        load(base)


def test_several_files_of_weights(base: Path) -> None:
    weights = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    names = sorted(weights)
    for number, part in enumerate([names[::2], names[1::2]]):
        save_file({name: weights[name] for name in part}, base / f"model-{number}.safetensors")
    check_base(base)


def test_an_unreadable_configuration(base: Path) -> None:
    (base / "config.json").write_text('{"vocab_size": 40')
    with pytest.raises(StartError, match=r"config\.json cannot be read"):
        check_base(base)


def test_the_vocabulary_of_a_unigram_tokenizer_is_a_list(base: Path) -> None:
    vocabulary = [["<unk>", 0.0], *([f"token{number}", -1.0] for number in range(400))]
    changed(
        base / "tokenizer.json", model={"type": "Unigram", "unk_id": 0, "vocab": vocabulary}, added_tokens=[]
    )
    with pytest.raises(StartError, match="'token399' with the id 400"):
        check_base(base)
    changed(base / "config.json", vocab_size=401)
    weights = load_file(base / "model.safetensors")
    weights["model.embed_tokens.weight"] = torch.zeros(401, 64)
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    check_base(base)
