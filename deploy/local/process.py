"""One supervised process: started, logged, watched, restarted after a growing pause, stopped."""

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

_LOG_BYTES = 20 * 2**20
_LASTING_SECONDS = 5  # a process that lived this long had started well
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 10


@dataclass
class Process:
    """A module that runs as a child, its output copied to a log file and shown line by line."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    show: Callable[[str, str], None]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0
    deaths: int = 0
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=12))

    def start(self) -> None:
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deploy.local.child", *self.command],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # the terminal's Ctrl-C reaches only the parent, which stops all in order
        )
        threading.Thread(target=self._copy_log, args=[self.process], daemon=True).start()

    def _copy_log(self, process: subprocess.Popen[bytes]) -> None:
        if self.log.is_file() and self.log.stat().st_size > _LOG_BYTES:
            self.log.replace(self.log.with_suffix(".old.log"))
        with self.log.open("ab", buffering=0) as file:
            for raw in process.stdout or ():
                file.write(raw)
                line = raw.decode(errors="replace").rstrip()
                self.tail.append(line)
                self.show(self.name, line)

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def due(self) -> bool:
        """Dead, and its pause is over."""
        pause: float = min(_LONGEST_PAUSE, _FIRST_PAUSE * (2**self.deaths - 1))
        return not self.alive() and time.monotonic() - self.started > pause

    def restart(self) -> None:
        self._end_family()
        lasted = time.monotonic() - self.started > _LASTING_SECONDS
        self.deaths = 0 if lasted else self.deaths + 1
        self.start()

    def stop(self) -> None:
        if self.process is not None and self.alive():
            self.process.terminate()

    def wait(self, seconds: float) -> None:
        if self.process is None:
            return
        try:
            self.process.wait(max(0.1, seconds))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._end_family()

    def _end_family(self) -> None:
        """Kill what a dead process may have left running: vLLM's workers outlive a server that was killed."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
