"""A supervised process is a child that is logged, and restarted with exponential backoff."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_MAX_LOG_BYTES = 20 * 2**20
_STABLE_SECONDS = 5  # after this uptime the backoff starts again
_MIN_BACKOFF, _MAX_BACKOFF = 0.25, 10  # seconds


@dataclass
class Process:
    """A Python module that runs as a child. Its output goes to a log file, and line by line to `on_line`,
    with the process's name; `tail` keeps the last lines."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    on_line: Callable[[str, str], None]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0
    crashes: int = 0
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=12))

    def start(self) -> None:
        """Starts the process and a thread that copies its output."""
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deploy.local.child", *self.command],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # the terminal's Ctrl-C reaches only the parent, which stops all in order
        )
        threading.Thread(target=self._copy_output, args=[self.process], daemon=True).start()

    def _copy_output(self, process: subprocess.Popen[bytes]) -> None:
        if self.log.is_file() and self.log.stat().st_size > _MAX_LOG_BYTES:
            self.log.replace(self.log.with_suffix(".old.log"))
        output = process.stdout
        if output is None:
            return
        with output, self.log.open("ab", buffering=0) as file:
            for raw in output:
                file.write(raw)
                line = raw.decode(errors="replace").rstrip()
                self.tail.append(line)
                self.on_line(self.name, line)

    def alive(self) -> bool:
        """Returns whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def needs_restart(self) -> bool:
        """Returns whether the process is dead and its backoff is over."""
        backoff: float = min(_MAX_BACKOFF, _MIN_BACKOFF * (2**self.crashes - 1))
        return not self.alive() and time.monotonic() - self.started > backoff

    def restart(self) -> None:
        """Starts a dead process again, after killing its descendants."""
        self._kill_group()
        stable = time.monotonic() - self.started > _STABLE_SECONDS
        self.crashes = 0 if stable else self.crashes + 1
        self.start()

    def stop(self) -> None:
        """Sends SIGTERM."""
        if self.process is not None and self.alive():
            self.process.terminate()

    def wait(self, seconds: float) -> None:
        """Waits for the end of the process, and kills it and its descendants after `seconds`."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.1, seconds))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        self._kill_group()

    def _kill_group(self) -> None:
        """Kills the process group: vLLM's workers outlive a server that was killed."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
