"""Free loopback ports are found here for processes that start each other."""

import secrets
import socket
from contextlib import suppress

PORTS = range(10_000, 32_768)
"""Ports below the ephemeral range, from which the kernel takes ports for outgoing connections: there it could
give a port away before a server binds it, or while it restarts."""


def free_port(ports: range = PORTS) -> int:
    """Returns a free port, one of `ports`."""
    while True:
        port = secrets.choice(ports)
        with suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
