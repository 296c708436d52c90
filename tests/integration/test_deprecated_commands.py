"""Old command names still work: they are hidden, warn on standard error, and give the same result."""

import os
import subprocess
from pathlib import Path

import pytest

from schemas.policies import base_digest
from tests.installation import Installation


def hearken(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        Installation.hearken(*words),
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_fetch_does_what_download_model_does(tmp_path: Path, starter: Path) -> None:
    new, old = hearken("download-model", str(tmp_path / "new")), hearken("fetch", str(tmp_path / "old"))
    assert (new.returncode, old.returncode) == (0, 0), old.stderr
    assert new.stderr == ""
    assert old.stderr == "hearken: `hearken fetch` is deprecated. Use `hearken download-model`.\n"
    assert old.stdout == new.stdout.replace(str(tmp_path / "new"), str(tmp_path / "old"))
    assert base_digest(tmp_path / "new") == base_digest(tmp_path / "old") == base_digest(starter)


def test_rebuild_does_what_reproduce_does(tmp_path: Path) -> None:
    old = hearken("rebuild", "p7-none", HEARKEN_DATA_DIR=str(tmp_path))
    assert (old.returncode, old.stdout) == (1, "")
    assert old.stderr.splitlines() == [
        "hearken: `hearken rebuild` is deprecated. Use `hearken reproduce`.",
        "hearken: There is no policy p7-none.",
    ]


@pytest.mark.parametrize("old", ["fetch", "rebuild"])
def test_the_old_names_are_not_listed_and_take_the_same_options(old: str) -> None:
    new = {"fetch": "download-model", "rebuild": "reproduce"}[old]
    listed = hearken("--help", COLUMNS="200").stdout
    assert f" {new} " in listed
    assert f" {old} " not in listed
    assert hearken(old, "--help").stdout.replace(old, new, 1).split() == hearken(new, "--help").stdout.split()
