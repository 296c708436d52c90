"""`hearken up` is a process supervisor: it runs everything on this machine and stops it on one signal.

Postgres, the engine, the chat API and the trainer are separate processes. A process that dies is restarted
with exponential backoff. Each has a log file in `logs/` in the data folder; what an operator needs is printed
to the console too. Children end with their parent, even if it is killed, so the next start meets no
leftovers.
"""

import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import httpx

import serving
from deploy.local.children import child_processes
from deploy.local.console import PlainConsole, log_printer, reachable, welcome
from deploy.local.data_folder import locked_data_folder
from deploy.local.postgres import EmbeddedPostgres, check_connection
from deploy.local.prepare import create_keys, prepared
from deploy.local.process import Process
from deploy.local.signing import ensure_signing_keys
from schemas.errors import StartError
from schemas.settings import Settings

_READY_SECONDS = 900  # to read, digest and warm up a large base; a process that ends is seen at once
_STOP_SECONDS = 15
_MAX_KILLED = 3  # times in a row that a signal may end a child that has just started
_POLL = 0.25  # seconds


def up(settings: Settings, console: PlainConsole) -> int:
    """Runs everything until SIGINT or SIGTERM; returns the exit code. Raises StartError, and
    KeyboardInterrupt at a signal while the base is prepared."""
    _check_built()
    stopping = threading.Event()
    _on_signals(lambda *_: stopping.set())
    named, data_dir = settings.model, settings.data_dir.resolve()
    settings = settings.model_copy(update={"data_dir": data_dir})
    with ExitStack() as stack:
        stack.enter_context(locked_data_folder(settings.data_dir))
        _check_port(settings.host, settings.port)
        postgres = None
        if settings.database_url is None:
            postgres = EmbeddedPostgres(settings.data_dir / "postgres")
            settings = settings.model_copy(update={"database_url": postgres.start()})
            stack.callback(postgres.stop)
        else:
            check_connection(settings.database_url)
        _on_signals(signal.default_int_handler)  # a download is broken off
        settings = stack.enter_context(prepared(settings))
        _on_signals(lambda *_: stopping.set())
        made = create_keys(settings)
        ensure_signing_keys(settings)
        children = child_processes(settings, log_printer(console.say))
        stack.callback(_stop, children)
        for child in children:
            child.start()
        console.say(f"Loading {named}…")
        _wait_until_ready(settings, children, stopping)
        if not stopping.is_set():
            console.say(welcome(settings, made))
            with console.watching(settings):
                _supervise(children, postgres, stopping, console.say)
        console.say("Stopping…")
    console.say("Stopped.")
    return 0


def _on_signals(handler: Callable[[int, FrameType | None], object]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _check_built() -> None:
    """Raises StartError where the pages have not been built."""
    if not (Path(serving.__file__).parent / "web" / "dist" / "index.html").exists():
        raise StartError("The pages are not built: run `make install`, or `python deploy/build_web.py`.")


def _supervise(
    children: list[Process],
    postgres: EmbeddedPostgres | None,
    stopping: threading.Event,
    say: Callable[[str], None],
) -> None:
    """Restarts whatever dies, until `stopping` is set."""
    reported = False
    while not stopping.wait(_POLL):
        if postgres is not None and not postgres.running():
            if not reported:
                say("Postgres died; restarting it")
            reported = True
            postgres.restart()
        else:
            reported = False
        for child in children:
            if child.needs_restart():
                say(f"{child.name} died; restarting it")
                child.restart()


def _check_port(host: str, port: int) -> None:
    """Raises StartError if the port cannot be bound."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartError(
                f"Port {port} on {host} cannot be used: {error.strerror}. Choose another with --port."
            ) from None


def _wait_until_ready(settings: Settings, children: list[Process], stopping: threading.Event) -> None:
    """Waits for /readyz. A child that a signal ends meanwhile, as when memory is short, is started again.
    Raises StartError, with the last output of a child that cannot start."""
    deadline = time.monotonic() + _READY_SECONDS
    url = f"http://{reachable(settings.host)}:{settings.port}/readyz"
    while not stopping.wait(0.2):
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        for child in children:
            if child.alive():
                continue
            due = child.needs_restart()
            if not child.killed() or child.crashes > _MAX_KILLED:
                output = "\n  ".join(child.tail)
                raise StartError(f"{child.name} could not start. Its last output:\n  {output}")
            if due:
                child.restart()
        if time.monotonic() > deadline:
            raise StartError(
                f"Not ready after {_READY_SECONDS} seconds. The logs are in {settings.data_dir / 'logs'}."
            )


def _stop(children: list[Process]) -> None:
    """Stops the API first, so that replies in flight can finish while the engine still runs."""
    deadline = time.monotonic() + _STOP_SECONDS
    for child in sorted(children, key=lambda child: child.name == "engine"):
        child.stop()
        if child.name == "serving":
            child.wait(deadline - time.monotonic())
    for child in children:
        child.wait(deadline - time.monotonic())
