"""An auxiliary model reads replies as text, with its own tokenizer, within its own context."""

from pathlib import Path

import pytest
import torch

from schemas.errors import StartError
from tests.training import write_encoder
from trainer.model.auxiliary import AuxiliaryModel

PROMPTS = ["red blue green", "tree", "stone cloud"]
REPLIES = ["bird fish", "river river river tree", ""]


@pytest.fixture(params=["encoder", "decoder"])
def model(request: pytest.FixtureRequest, tmp_path: Path, tiny_base: Path) -> AuxiliaryModel:
    directory = tiny_base if request.param == "decoder" else write_encoder(tmp_path / "encoder")
    return AuxiliaryModel(directory, torch.device("cpu"))


def test_features_are_of_the_reply_behind_its_prompt(model: AuxiliaryModel) -> None:
    found_NF = model.features(PROMPTS, REPLIES)
    alone_NF = torch.cat([model.features([p], [r]) for p, r in zip(PROMPTS, REPLIES, strict=True)])
    torch.testing.assert_close(found_NF, alone_NF, atol=1e-4, rtol=1e-4)
    assert bool(found_NF.isfinite().all())
    others_NF = model.features(PROMPTS[::-1], REPLIES)
    assert float((found_NF - others_NF)[0].abs().max()) > 1e-3  # another prompt
    assert float((found_NF[0] - found_NF[1]).abs().max()) > 1e-3


def test_what_is_too_long_loses_the_prompts_beginning_and_the_replys_end(model: AuxiliaryModel) -> None:
    prompt, reply = "tree " * 3_000, "river " * 3_000
    [found_F] = model.features([prompt], [reply])
    assert bool(found_F.isfinite().all())
    torch.testing.assert_close(model.features(["bird " + prompt], [reply + " bird"])[0], found_F)
    assert not torch.allclose(model.features([prompt], ["bird " + reply])[0], found_F)


def test_a_directory_that_has_no_such_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot be read"):
        AuxiliaryModel(tmp_path, torch.device("cpu"))
    directory = write_encoder(tmp_path / "encoder")
    (directory / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(StartError, match="cannot be read"):
        AuxiliaryModel(directory, torch.device("cpu"))
