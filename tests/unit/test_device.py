"""What is free in a container."""

from pathlib import Path

import psutil
import pytest
import torch

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
