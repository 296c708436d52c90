"""Free loopback ports are found here for processes that start each other."""

import secrets
import socket
from contextlib import suppress


def free_port() -> int:
    """Returns a free port below the ephemeral range, from which the kernel takes ports for outgoing
    connections: there it could give the port away before a server binds it, or while it restarts."""
    while True:
        port = 10_000 + secrets.randbelow(22_768)
        with suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
