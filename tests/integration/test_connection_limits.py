"""Connections that never become a request cost nothing and end: headers, bodies, silence."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest

from serving import http_protocol, limits
from tests.service import PUBLIC, Service

BEGIN = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "
    + PUBLIC.encode()
    + b"\r\n"
)


@contextmanager
def connected(service: Service) -> Iterator[socket.socket]:
    url = httpx.URL(service.url)
    with socket.create_connection((url.host, url.port or 80), timeout=10) as connection:
        yield connection


def rest(connection: socket.socket) -> bytes:
    """What the service still sends until it closes the connection."""
    found = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(65_536):
            found += piece
    return found


@pytest.mark.parametrize("begin", [b"GET /", b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\n"])
def test_an_endless_header_is_refused(service: Service, begin: bytes) -> None:
    with connected(service) as connection:
        connection.sendall(begin)
        time.sleep(0.05)
        with suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(100):
                connection.sendall(b"Y: a\r\n" * 1_000 if begin.endswith(b"\n") else b"a" * 6_000)
        answer = rest(connection)
    assert answer == b"" or b" 431 " in answer.splitlines()[0]
    assert httpx.get(f"{service.url}/healthz").status_code == 200


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"])
def test_a_request_that_does_not_come_ends(
    service: Service, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(http_protocol, "HEADER_SECONDS", 0.2)
    with connected(service) as connection:
        connection.sendall(sent)
        assert b" 408 " in rest(connection).splitlines()[0]


def test_a_body_that_does_not_come_ends(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.2)
    with connected(service) as connection:
        connection.sendall(BEGIN + b'Content-Length: 100\r\n\r\n{"mess')
        assert b" 408 " in connection.recv(65_536).splitlines()[0]


def test_a_connection_serves_one_request_after_another(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of a header begins with the header, and a running request has none."""
    monkeypatch.setattr(http_protocol, "HEADER_SECONDS", 0.3)
    with service.client() as client:
        for _ in range(3):
            body = {"messages": [{"role": "user", "content": "Tea? " + "x" * 100}], "max_tokens": 40}
            assert client.post("/v1/chat/completions", json=body).status_code == 200
            time.sleep(0.1)
