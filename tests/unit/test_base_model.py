"""`hearken download-model` downloads a base once, and replaces it atomically, only by a different one."""

import json
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy.local import base_model as module
from deploy.local.base_model import base_directory, copy_base_model, licence
from schemas.errors import StartError
from schemas.policies import base_digest


def another(starter: Path, directory: Path) -> Path:
    """A base that answers otherwise."""
    shutil.copytree(starter, directory)
    with (directory / "chat_template.jinja").open("a") as template:
        template.write(" ")
    return directory


def test_weights_are_asked_for_only_where_they_are_needed(starter: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(starter, tmp_path / "model"))
    assert base_directory(str(model)) == model
    (model / "model.safetensors").unlink()
    assert base_directory(str(model), weights=False) == model
    with pytest.raises(StartError, match="safetensors"):
        base_directory(str(model))


def test_a_model_without_a_chat_template_is_refused(starter: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(starter, tmp_path / "model"))
    (model / "chat_template.jinja").unlink()
    with pytest.raises(StartError, match="no chat template"):
        base_directory(str(model))
    settings = model / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"chat_template": "{{ messages }}"}))
    assert base_directory(str(model)) == model


def test_the_licence_is_read_from_the_card(starter: Path, tmp_path: Path) -> None:
    assert licence(starter) == "apache-2.0"
    assert licence(tmp_path) is None
    (tmp_path / "README.md").write_text("# A model\n\nlicense: none\n")
    assert licence(tmp_path) is None
    (tmp_path / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n")
    assert licence(tmp_path) == "mit"


def test_what_is_there_already_is_left_alone(starter: Path, tmp_path: Path) -> None:
    copy_base_model(starter, tmp_path / "base")
    before = {path: path.stat().st_ino for path in (tmp_path / "base").iterdir()}
    copy_base_model(starter, tmp_path / "base")
    assert {path: path.stat().st_ino for path in (tmp_path / "base").iterdir()} == before


def test_another_is_replaced_whole(starter: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    copy_base_model(starter, base)
    (base / "of the old one").touch()
    weights = (base / "model.safetensors").open("rb")
    copy_base_model(another(starter, tmp_path / "other"), base)
    assert base_digest(base) == base_digest(tmp_path / "other")
    assert not (base / "of the old one").exists()
    with weights:  # whoever had it open reads the old one to its end
        assert weights.read() == (starter / "model.safetensors").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"base", "other"}


def test_several_at_once_and_a_reader_who_never_sees_half(starter: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    whole = base_digest(starter)
    seen: set[str] = set()
    done = threading.Event()

    def read() -> None:
        while not done.wait(0.001):
            if base.is_dir():
                seen.add(base_digest(base))

    reader = threading.Thread(target=read)
    reader.start()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: copy_base_model(starter, base), range(8)))
    done.set()
    reader.join()
    assert seen == {whole}
    assert {path.name for path in tmp_path.iterdir()} == {"base"}


def test_an_equal_copy_that_another_has_finished_is_not_moved(
    starter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    copytree = shutil.copytree
    finished: list[int] = []

    def copy_while_another_finishes(source: Path, target: Path) -> None:
        copytree(source, target)
        if not finished:
            copytree(starter, base)
            finished.append(base.stat().st_ino)

    monkeypatch.setattr(shutil, "copytree", copy_while_another_finishes)
    copy_base_model(starter, base)
    assert [base.stat().st_ino] == finished


def test_a_model_of_the_hub_is_downloaded_once(
    starter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a pod that starts again needs no hub."""
    asked: list[str] = []

    def download(model: str, patterns: list[str]) -> Path:
        asked.append(model)
        return starter

    monkeypatch.setattr(module, "_download", download)
    for model in ("some/model", "some/model", "another/model"):
        module.download_model(model, tmp_path / "base")
    assert asked == ["some/model", "another/model"]
    (tmp_path / "base" / "model.safetensors").unlink()
    module.download_model("another/model", tmp_path / "base")
    assert asked == ["some/model", "another/model", "another/model"]
    assert base_digest(tmp_path / "base") == base_digest(starter)


def test_a_model_that_is_not_there_is_said_where_nothing_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image of the chat API has no client of the hub."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(StartError, match=r"There is no directory .*/base"):
        base_directory(str(tmp_path / "base"))
