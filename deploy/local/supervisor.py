"""`hearken up`: everything on this machine, watched over, stopped by one signal.

Postgres, the engine, the chat API and the trainer each run as a process of their own. One that dies is
started again, after a pause that doubles while it keeps dying. Logs go to `logs/` in the data folder, one
file a process; what an operator wants to see goes to the console too. Children end with their parent,
even when that is killed, so a second start never meets a leftover.
"""

import fcntl
import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from deploy.local import vllm
from deploy.local.ports import free_port
from deploy.local.postgres import EmbeddedPostgres, check_connection
from deploy.local.prepare import keys, keys_shown, prepared
from deploy.local.process import Process
from schemas.errors import StartError
from schemas.settings import Settings
from serving.keys import NewKeys

_FREE_BYTES = 256 * 2**20
_READY_SECONDS = {"embedded": 120, "vllm": 900}
_STOP_SECONDS = 15


def up(settings: Settings, say: Callable[[str], None]) -> int:
    """Run everything until SIGINT or SIGTERM; returns the exit code. Raises StartError."""
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    settings = settings.model_copy(update={"data_dir": settings.data_dir.resolve()})
    with ExitStack() as stack:
        stack.enter_context(_own(settings.data_dir))
        _check_port(settings.host, settings.port)
        postgres = None
        if settings.database_url is None:
            postgres = EmbeddedPostgres(settings.data_dir / "postgres")
            settings = settings.model_copy(update={"database_url": postgres.start()})
            stack.callback(postgres.stop)
        else:
            check_connection(settings.database_url)
        settings = stack.enter_context(prepared(settings))
        made = keys(settings)
        children = _children(settings, _console(say))
        stack.callback(_stop, children)
        for child in children:
            child.start()
        _wait_until_ready(settings, children, stopping)
        if not stopping.is_set():
            say(_welcome(settings, made))
        told = False
        while not stopping.wait(0.25):
            if postgres is not None and not postgres.running():
                if not told:
                    say("Postgres died; starting it again")
                told = True
                postgres.revive()
            else:
                told = False
            for child in children:
                if child.due():
                    say(f"{child.name} died; starting it again")
                    child.restart()
        say("Stopping…")
    say("Stopped.")
    return 0


@contextmanager
def _own(directory: Path) -> Iterator[None]:
    """The data folder is ours alone, writable, and on a disk with room."""
    try:
        for name in (".", "logs", "policies", "rounds"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        lock = (directory / "lock").open("a+")
    except OSError as error:
        raise StartError(
            f"The data folder {directory} cannot be written: {error}. Name another with --data-dir."
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise StartError(
                f"The data folder {directory} is in use by another Hearken (process {lock.read().strip()}). "
                "Stop that one, or name another folder with --data-dir."
            ) from None
        free = shutil.disk_usage(directory).free
        if free < _FREE_BYTES:
            raise StartError(
                f"The disk of {directory} is full: {free // 2**20} MiB free, {_FREE_BYTES // 2**20} needed. "
                "Free some, or name a folder on another disk with --data-dir."
            )
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartError(
                f"Port {port} on {host} cannot be used: {error.strerror}. Choose another with --port."
            ) from None


def _children(settings: Settings, show: Callable[[str, str], None]) -> list[Process]:
    """The engine on a free loopback port (unless others are named), the chat API, the trainer, the relay when
    there is a broker, and the judge when there is an endpoint."""
    engines = settings.vllm.urls
    port = free_port()
    environment = {
        **os.environ,
        "HEARKEN_DATABASE_URL": settings.database_url or "",
        "HEARKEN_DATA_DIR": str(settings.data_dir),
        "HEARKEN_HOST": settings.host,
        "HEARKEN_PORT": str(settings.port),
        "HEARKEN_MODEL": settings.model,
        "HEARKEN_VLLM__URLS": json.dumps(engines or [f"http://127.0.0.1:{port}"]),
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }

    def child(name: str, command: list[str], **more: str) -> Process:
        log = settings.data_dir / "logs" / f"{name}.log"
        return Process(name, command, environment | more, log, show)

    ours = settings.engine.kind == "vllm" and not engines
    beside = vllm.beside(settings) if ours else {}
    children = [
        child("serving", ["deploy.cli", "serve"]),
        child("trainer", ["deploy.cli", "train"], **beside),
    ]
    if settings.kafka.servers:
        children.append(child("relay", ["deploy.cli", "relay"]))
    if settings.judge.url:
        children.append(child("judge", ["deploy.cli", "judge"]))
    if engines:
        return children
    if ours:
        command = vllm.command(settings, port)
        return [child("engine", command, **vllm.environment(settings)), *children]
    return [child("engine", _embedded(settings, port)), *children]


def _embedded(settings: Settings, port: int) -> list[str]:
    return [
        "serving.embedded",
        *("--model", settings.model),
        *("--port", str(port)),
        *("--max-loras", str(settings.engine.max_adapters)),
        *("--max-num-seqs", str(settings.engine.max_streams)),
        *("--threads", str(settings.engine.threads)),
    ]


def _welcome(settings: Settings, made: NewKeys | None) -> str:
    address = f"http://{_reachable(settings.host)}:{settings.port}"
    lines = ["", f"Hearken answers. Chat and vote in a browser: {address}/", "", *keys_shown(made)]
    if made is not None:
        lines += [
            "Any OpenAI client works:",
            f"  curl {address}/v1/chat/completions -H 'Authorization: Bearer {made.admin}' \\",
            "    -H 'Content-Type: application/json' \\",
            """    -d '{"model": "default", "messages": [{"role": "user", "content": "Hello!"}]}'""",
            "",
            "Watch it learn from people with a hidden taste:",
            f"  hearken simulate --url {address} --admin-key {made.admin}",
            "",
        ]
    return "\n".join([*lines, "Ctrl-C stops everything.", ""])


def _console(say: Callable[[str], None]) -> Callable[[str, str], None]:
    """Shows what an operator wants to see: the trainer's progress, swaps, and whatever is a warning."""

    def show(name: str, line: str) -> None:
        try:
            record = json.loads(line)
        except ValueError:
            return
        if not isinstance(record, dict):
            return
        level = record.pop("level", "info")
        if (
            level in {"debug", "info"}
            and name != "trainer"
            and not str(record.get("event")).startswith("policy")
        ):
            return
        event = record.pop("event", "")
        moment = str(record.pop("timestamp", ""))[11:19]
        rest = "  ".join(f"{key}={value}" for key, value in record.items() if key != "exception")
        say(f"{moment}  {name:8} {event}  {rest}")

    return show


def _wait_until_ready(settings: Settings, children: list[Process], stopping: threading.Event) -> None:
    """Until /readyz says so. Raises StartError with the last words of a child that cannot start."""
    patience = _READY_SECONDS[settings.engine.kind]
    deadline = time.monotonic() + patience
    url = f"http://{_reachable(settings.host)}:{settings.port}/readyz"
    while not stopping.wait(0.2):
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        for child in children:
            if not child.alive():
                words = "\n  ".join(child.tail)
                raise StartError(f"{child.name} could not start. Its last words:\n  {words}")
        if time.monotonic() > deadline:
            raise StartError(
                f"Not ready after {patience} seconds. The logs are in {settings.data_dir / 'logs'}."
            )


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104


def _stop(children: list[Process]) -> None:
    """The API first, so that replies in flight can finish on an engine that still lives."""
    deadline = time.monotonic() + _STOP_SECONDS
    for child in sorted(children, key=lambda child: child.name == "engine"):
        child.stop()
        if child.name == "serving":
            child.wait(deadline - time.monotonic())
    for child in children:
        child.wait(deadline - time.monotonic())
