"""The children of `hearken up` are read and restarted, whatever happens to their logs and to themselves."""

import os
import socket
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from deploy.local import process as module
from deploy.local.process import Process
from deploy.local.supervisor import _wait_until_ready as wait_until_ready
from schemas.errors import StartError
from schemas.settings import Settings

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


@pytest.mark.parametrize(
    ("end", "starts"),
    [
        ("os.kill(os.getpid(), 9) if count == 1 else serve()", 2),
        ("os.kill(os.getpid(), 9)", 4),
        ("sys.exit(1)", 1),
    ],
)
def test_what_a_signal_ends_while_it_starts_is_started_again_but_not_for_ever(
    tmp_path: Path, end: str, starts: int
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "starter_of_tests.py").write_text(
        "import http.server, os, pathlib, sys\n"
        f"counted = pathlib.Path({str(tmp_path / 'starts')!r})\n"
        "count = len(counted.read_text()) + 1 if counted.exists() else 1\n"
        "counted.write_text('x' * count)\n"
        "class Handler(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200)\n"
        "        self.end_headers()\n"
        "def serve():\n"
        f"    http.server.HTTPServer(('127.0.0.1', {port}), Handler).serve_forever()\n"
        f"{end}\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    child = Process(
        "child", ["starter_of_tests"], environment, tmp_path / "child.log", lambda name, line: None
    )
    child.start()
    try:
        with nullcontext() if "serve" in end else pytest.raises(StartError, match="child could not start"):
            wait_until_ready(Settings(host="127.0.0.1", port=port), [child], threading.Event())
        assert len((tmp_path / "starts").read_text()) == starts
    finally:
        child.stop()
        child.wait(10)
