"""A second replica of serving, trainer and relay runs beside an installation, as if on another machine."""

import json
import subprocess
import sys
import threading
from types import TracebackType
from typing import Self

import httpx
import psutil

from deploy.local.ports import free_port
from serving.engine import KEY_VARIABLE
from tests.installation import Installation, wait

COMMANDS = {"serving": "serve", "trainer": "train", "relay": "relay"}
NICE = {"trainer": 10}  # it uses a whole core, which would be another machine's
PAUSE = 0.25  # seconds before a dead process is restarted


class SecondReplica:
    """The replica of an installation that is ready and has a broker. A process that dies is restarted, as a
    supervisor would do."""

    def __init__(self, installation: Installation) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._logs = installation.data_dir / "logs"
        self._environment = installation.environment | {
            "HEARKEN_DATABASE_URL": installation.database_url(),
            "HEARKEN_DATA_DIR": str(installation.data_dir),
            "HEARKEN_PORT": str(port),
        }
        if "HEARKEN_VLLM__URLS" not in self._environment:
            url, key = _engine(installation)
            self._environment |= {"HEARKEN_VLLM__URLS": json.dumps([url]), "HEARKEN_VLLM__KEY": key}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._done = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name="second-replica", daemon=True)

    def __enter__(self) -> Self:
        for name in COMMANDS:
            self._start(name)
        self._supervisor.start()
        wait(self._ready, "the second serving process is ready")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._supervisor.join()
        for process in self._processes.values():
            process.kill()
            _end(process)

    def find(self, name: str) -> psutil.Process | None:
        """Returns the live process of that name, or None."""
        process = self._processes[name]
        return psutil.Process(process.pid) if process.poll() is None else None

    def _start(self, name: str) -> None:
        with (self._logs / f"second-{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [
                    *("nice", "-n", str(NICE.get(name, 0))),
                    *(sys.executable, "-m", "deploy.local.child", "deploy.cli", COMMANDS[name]),
                ],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _supervise(self) -> None:
        while not self._done.wait(PAUSE):
            for name, process in list(self._processes.items()):
                if process.poll() is not None:
                    _end(process)
                    self._start(name)

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


def _engine(installation: Installation) -> tuple[str, str]:
    """Returns the address and the key of the engine that the installation started."""
    engine = installation.find("engine")
    assert engine is not None
    words = engine.cmdline()
    return f"http://127.0.0.1:{words[words.index('--port') + 1]}", engine.environ()[KEY_VARIABLE]
