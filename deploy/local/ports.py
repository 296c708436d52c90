"""Loopback ports for processes that start each other."""

import secrets
import socket
from contextlib import suppress


def free_port() -> int:
    """One that nobody has. Below those that the system hands out to outgoing connections, or one of these may
    have it by the time a server, or one that starts again, listens."""
    while True:
        port = 10_000 + secrets.randbelow(22_768)
        with suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
