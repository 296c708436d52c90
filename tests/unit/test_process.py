"""The children of `hearken up` are read and restarted, whatever happens to their logs and to themselves."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from deploy.local import process as module
from deploy.local.process import Process

LINES = 3_000
"""Lines of the child, of 81 bytes each: four times what a pipe holds."""


def talk(folder: Path, log: Path, on_line: Callable[[str], None] = lambda line: None) -> None:
    """Runs a child that prints LINES, and waits until it has ended and all its lines are read."""
    (folder / "talkative.py").write_text(f"for number in range({LINES}):\n    print(f'{{number:080}}')\n")
    last = threading.Event()

    def hear(name: str, line: str) -> None:
        if line.endswith(str(LINES - 1)):
            last.set()
        on_line(line)

    child = Process("child", ["talkative"], {**os.environ, "PYTHONPATH": str(folder)}, log, hear)
    child.start()
    assert child.process is not None
    assert child.process.wait(30) == 0
    assert last.wait(30)
    child.wait(1)


def test_a_child_goes_on_where_the_disk_is_full(tmp_path: Path) -> None:
    heard: list[str] = []
    talk(tmp_path, Path("/dev/full"), heard.append)
    assert len(heard) == LINES


def test_a_child_goes_on_where_the_console_is_closed(tmp_path: Path) -> None:
    def closed(line: str) -> None:
        raise BrokenPipeError

    talk(tmp_path, tmp_path / "child.log", closed)
    assert len((tmp_path / "child.log").read_text().splitlines()) == LINES


def test_a_log_that_is_long_begins_anew_while_its_child_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_LOG_BYTES", 81 * 1_000)
    talk(tmp_path, tmp_path / "child.log")
    kept = [(tmp_path / name).read_text().splitlines() for name in ("child.old.log", "child.log")]
    assert [len(lines) for lines in kept] == [1_001, LINES - 2 * 1_001]
    assert int(kept[1][-1]) == LINES - 1


def test_a_child_that_always_ends_at_once_is_restarted_ever_more_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    child = Process("child", ["this"], dict(os.environ), tmp_path / "child.log", lambda name, line: None)
    child.start()
    pauses = []
    for _ in range(7):
        assert child.process is not None
        child.process.wait(30)
        ended = now
        while not child.needs_restart():
            now += 0.25
        pauses.append(now - ended)
        child.restart()
    assert pauses == [0.25, 0.75, 1.75, 3.75, 7.75, 10, 10]
    child.process.wait(30)
    now += 6  # it ran for longer than one that crashes
    assert child.needs_restart()
    child.wait(1)
