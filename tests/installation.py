"""An installation runs `hearken up` as a user would, as a process with its own data folder."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import psutil
import psycopg
from psycopg.types.json import Jsonb

from deploy.local.ports import free_port
from deploy.local.postgres import EmbeddedPostgres
from schemas.policies import MANIFEST, file_digest
from schemas.signatures import read_signing_key, sign

ADMIN_KEY = "sk-hearken-test-admin-0123456789abcdef"
PUBLIC_KEY = "pk-hearken-test-public-0123456789abcdef"
PROCESSES = ("serving", "engine", "trainer", "postgres")


@contextmanager
def started(*words: str, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """Runs one `hearken` command, as a container does, and kills it after the block."""
    process = subprocess.Popen(
        Installation.hearken(*words), env=os.environ | settings, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Waits for the condition. Raises AssertionError if it is not true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not true after {seconds} s: {what}"
        time.sleep(0.1)


class Installation:
    """An installation with known keys, for a `with` block; `settings` are HEARKEN_… variables."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **os.environ,
            "HEARKEN_ADMIN_KEY": ADMIN_KEY,
            "HEARKEN_PUBLIC_KEY": PUBLIC_KEY,
            "HEARKEN_SERVING__PAIRS_PER_DAY": "0",  # it is left to chance which message becomes a pair
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        self.wait_until_ready()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, *, terminal: bool = False) -> None:
        """Its output goes to console.log, by way of a terminal if asked."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with (self.data_dir / "console.log").open("ab") as console:
            output = self._terminal() if terminal else console.fileno()
            self.process = subprocess.Popen(
                [*self.hearken("up"), "--port", str(self.port), "--data-dir", str(self.data_dir)],
                env=self.environment | ({"TERM": "xterm", "COLUMNS": "100"} if terminal else {}),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        if terminal:
            os.close(output)

    def _terminal(self) -> int:
        """Returns a terminal whose content is copied to console.log until its process ends."""
        ours, its = os.openpty()

        def copy() -> None:
            with (self.data_dir / "console.log").open("ab", buffering=0) as console:
                with suppress(OSError):  # which is how a terminal ends
                    while content := os.read(ours, 65_536):
                        console.write(content)
                os.close(ours)

        threading.Thread(target=copy, daemon=True).start()
        return its

    @staticmethod
    def hearken(*words: str) -> list[str]:
        return [sys.executable, "-m", "deploy.cli", *words]

    def publish_again(self, of: str, policy: str, *added: Callable[[Path], str]) -> None:
        """Publishes the files of a policy under another name, as its child and signed; each of `added` writes
        one more file and returns its name."""
        folder = self.data_dir.resolve() / "policies" / "default"
        directory = folder / policy
        shutil.copytree(folder / of, directory)
        manifest = json.loads((directory / MANIFEST).read_text()) | {"id": policy, "parent": of}
        manifest["files"] |= {
            name: file_digest(directory / name) for name in (add(directory) for add in added)
        }
        content = json.dumps(manifest).encode()
        (directory / MANIFEST).write_bytes(content)
        key = read_signing_key(self.data_dir / "signing" / "key.pem")
        with psycopg.connect(self.database_url()) as connection:
            connection.execute(
                "insert into policies (project, id, parent, base_digest, directory, digest, signature,"
                " manifest, state) values ('default', %s, %s, %s, %s, %s, %s, %s, 'published')",
                [
                    policy, of, manifest["base_digest"], str(directory), file_digest(directory / MANIFEST),
                    sign(content, key), Jsonb(manifest),
                ],
            )  # fmt: skip
            connection.execute("select pg_notify('hearken_policies', 'default')")

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs a `hearken` command on this data folder to its end."""
        return subprocess.run(
            [*self.hearken(*words), "--data-dir", str(self.data_dir)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def client(self, key: str | None = ADMIN_KEY, timeout: float = 30) -> httpx.Client:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=timeout)

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def wait_until_ready(self, seconds: float = 180) -> None:
        deadline = time.monotonic() + seconds
        while not self.ready():
            ended = self.process is None or self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                raise AssertionError("not ready:\n" + self.console()[-3000:])
            time.sleep(0.1)

    def console(self) -> str:
        return (self.data_dir / "console.log").read_text(errors="replace")

    def find(self, name: str) -> psutil.Process | None:
        """Returns the live process of that name, one of PROCESSES or the relay, or None."""
        if name == "postgres":
            with suppress(FileNotFoundError, IndexError, psutil.NoSuchProcess):
                words = (self.data_dir / "postgres" / "postmaster.pid").read_text().split()
                return psutil.Process(int(words[0]))
            return None
        marks = {
            "serving": {"serve"},
            "engine": {"serving.embedded", "vllm.entrypoints.openai.api_server"},
            "trainer": {"train"},
            "relay": {"relay"},
        }
        assert self.process is not None
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):  # dead, and not yet reaped
                if marks[name] & set(child.cmdline()):
                    return child
        return None

    def kill(self, name: str) -> bool:
        """Sends SIGKILL; returns False if the process was not running."""
        try:
            process = self.find(name)
            if process is None:
                return False
            process.kill()
        except psutil.NoSuchProcess:
            return False
        return True

    def database_url(self) -> str:
        """Returns the URL of the embedded Postgres, which must be running."""
        return EmbeddedPostgres(self.data_dir / "postgres").start()

    def pass_every_candidate(self) -> None:
        """Lets every candidate that the gate publishes go live at once, where it could not judge it, too."""
        with psycopg.connect(self.database_url()) as connection:
            connection.execute(
                "create function pass_candidate() returns trigger language plpgsql as $$ begin"
                """ new.gate = new.gate || '{"outcome": "passed"}'; return new; end $$"""
            )
            connection.execute(
                "create trigger pass_candidate before insert on policies"
                " for each row execute function pass_candidate()"
            )

    def stop(self) -> int:
        """Sends SIGTERM and returns the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)
