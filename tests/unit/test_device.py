"""What a process may use of a machine, or of its container."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from transformers import LlamaConfig

from schemas.settings import TrainerSettings
from trainer.model import device


def container(folder: Path, limit: str) -> Path:
    (folder / "memory.max").write_text(limit + "\n")
    (folder / "memory.current").write_text("700\n")
    (folder / "memory.stat").write_text("anon 500\ninactive_file 150\nactive_file 50\n")
    return folder


def test_a_container_has_what_its_limit_leaves_and_its_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "CGROUP", container(tmp_path, "1000"))
    assert device.free_memory(torch.device("cpu")) == 1000 - 700 + 150


@pytest.mark.parametrize("limit", ["max", None])
def test_without_a_limit_the_machine_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None
) -> None:
    monkeypatch.setattr(device, "CGROUP", container(tmp_path, limit) if limit else tmp_path)
    free = psutil.virtual_memory().available
    assert 0.5 * free < device.free_memory(torch.device("cpu")) < 2 * free


@pytest.mark.parametrize(("limit", "cores"), [("100000 100000", 1), ("50000 100000", 1), ("max", None)])
def test_a_wide_base_is_trained_by_all_cores_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, cores: int | None
) -> None:
    (tmp_path / "cpu.max").write_text(limit + "\n")
    monkeypatch.setattr(device, "CGROUP", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    LlamaConfig(hidden_size=576).save_pretrained(tmp_path)
    found = device.with_threads(TrainerSettings(), tmp_path).threads
    assert found is not None
    assert found == (cores or len(psutil.Process().cpu_affinity() or ()))
    assert device.with_threads(TrainerSettings(), tmp_path, processes=found).threads == 1
    assert device.with_threads(TrainerSettings(threads=3), tmp_path).threads == 3
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.with_threads(TrainerSettings(), tmp_path).threads == 1


def test_a_narrow_base_is_trained_by_one_thread(tmp_path: Path) -> None:
    LlamaConfig(hidden_size=256).save_pretrained(tmp_path)
    assert device.with_threads(TrainerSettings(), tmp_path).threads == 1


def test_a_trainer_that_uses_several_cores_gives_way() -> None:
    code = "import os; from trainer.model.device import give_way; give_way(); print(os.nice(0))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == min(19, os.nice(0) + device.NICENESS)
