"""`hearken up` lets its trainer take the time only that others leave."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.child import BACKGROUND, NICENESS


@pytest.mark.parametrize(("options", "niceness"), [([BACKGROUND], NICENESS), ([], 0)])
def test_a_background_child_has_a_lower_priority(tmp_path: Path, options: list[str], niceness: int) -> None:
    (tmp_path / "report.py").write_text("import os, sys\nprint(os.nice(0), sys.argv[1:])\n")
    child = subprocess.Popen(
        [sys.executable, "-m", "deploy.local.child", *options, "report", "--metrics"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path.cwd())])},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    with child:
        assert child.stdout is not None
        assert child.stdout.read() == f"{os.nice(0) + niceness} ['--metrics']\n"
