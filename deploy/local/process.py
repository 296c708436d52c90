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

_MAX_LOG_BYTES = 20 * 2**20  # of a log and of the one before
_STABLE_SECONDS = 5  # after this uptime the backoff starts again
_MIN_BACKOFF, _MAX_BACKOFF = 0.25, 10  # seconds
_DOUBLINGS = 6  # crashes after which the backoff grows no more


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
    ended: float | None = None
    crashes: int = 0
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=12))

    def start(self) -> None:
        """Starts the process and a thread that copies its output."""
        self.started, self.ended = time.monotonic(), None
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
        """Copies all output, whatever cannot be written: a child whose output nobody reads would stop."""
        output = process.stdout
        if output is None:
            return
        with output:
            for raw in output:
                with suppress(OSError):  # the disk is full
                    self._append(raw)
                line = raw.decode(errors="replace").rstrip()
                self.tail.append(line)
                with suppress(OSError):  # the console is closed
                    self.on_line(self.name, line)

    def _append(self, raw: bytes) -> None:
        """Writes to the log, which begins anew at _MAX_LOG_BYTES; the one before stays."""
        with self.log.open("ab", buffering=0) as file:
            file.write(raw)
            full = file.tell() > _MAX_LOG_BYTES
        if full:
            self.log.replace(self.log.with_suffix(".old.log"))

    def alive(self) -> bool:
        """Returns whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def killed(self) -> bool:
        """Returns whether a signal ended the process."""
        return self.process is not None and (self.process.poll() or 0) < 0

    def needs_restart(self) -> bool:
        """Returns whether the process is dead and its backoff, which begins when that is seen, is over."""
        if self.alive():
            return False
        now = time.monotonic()
        if self.ended is None:
            self.ended = now
            self.crashes = 0 if now - self.started > _STABLE_SECONDS else self.crashes + 1
        backoff: float = min(_MAX_BACKOFF, _MIN_BACKOFF * (2 ** min(self.crashes, _DOUBLINGS) - 1))
        return now - self.ended >= backoff

    def restart(self) -> None:
        """Starts a dead process again, after killing its descendants."""
        self.wait(0)
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
        with suppress(ProcessLookupError):  # vLLM's workers outlive a server that was killed
            os.killpg(self.process.pid, signal.SIGKILL)
