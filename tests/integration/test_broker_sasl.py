"""The consumer, the producer and the admin client authenticate by each SASL mechanism."""

import base64
import contextlib
import hashlib
import hmac
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
from kafka.errors import KafkaError
from kafka.protocol.sasl import (
    SaslAuthenticateRequest,
    SaslAuthenticateResponse,
    SaslHandshakeRequest,
    SaslHandshakeResponse,
)

from deploy.local.ports import free_port
from feedback.kafka_log import KafkaLog
from feedback.relay import Relay
from schemas.database import Pool
from schemas.settings import KafkaSettings
from tests.broker import PORTS, Broker, relaying
from tests.events import Reader, put_each

NAME, PASSWORD = "hearken", "a secret, with = and ,"
API_VERSIONS = 18
REFUSED = 58

Exchange = Generator[tuple[bytes, bool], bytes, None]
"""Is sent what a client says; yields what it is told, and whether it has proved who it is. Raises
PermissionError for one that has not."""


def plain() -> Exchange:
    _, name, password = (yield b"", False).decode().split("\0")
    if (name, password) != (NAME, PASSWORD):
        raise PermissionError
    yield b"", True


def scram(digest: str) -> Exchange:
    """The server's side of SCRAM (RFC 5802)."""

    def mac(key: bytes, said: bytes) -> bytes:
        return hmac.digest(key, said, digest)

    first = (yield b"", False).decode().removeprefix("n,,")
    name, _, nonce = first.partition(",r=")
    challenge = f"r={nonce}broker,s={base64.b64encode(b'salt').decode()},i=4096"
    final, _, proof = (yield challenge.encode(), False).decode().rpartition(",p=")
    salted = hashlib.pbkdf2_hmac(digest, PASSWORD.encode(), b"salt", 4096)
    said = f"{first},{challenge},{final}".encode()
    client_key = mac(salted, b"Client Key")
    signature = mac(hashlib.new(digest, client_key).digest(), said)
    expected = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    if name != f"n={NAME}" or base64.b64decode(proof) != expected:
        raise PermissionError
    yield b"v=" + base64.b64encode(mac(mac(salted, b"Server Key"), said)), True


MECHANISMS: dict[str, Callable[[], Exchange]] = {
    "PLAIN": plain,
    "SCRAM-SHA-256": lambda: scram("sha256"),
    "SCRAM-SHA-512": lambda: scram("sha512"),
}


class Door(socketserver.ThreadingTCPServer):
    """A proxy that authenticates clients before a broker without authentication."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        port = free_port(PORTS)
        self.broker = Broker(advertised=f"127.0.0.1:{port}")
        self.proved: list[str] = []
        super().__init__(("127.0.0.1", port), Visit)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class Visit(socketserver.StreamRequestHandler):
    server: Door

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.broker.port)) as inside:
            threading.Thread(target=self._pass_out, args=(inside,), daemon=True).start()
            with contextlib.suppress(ConnectionError):
                self._let_in(inside)
            inside.shutdown(socket.SHUT_RDWR)

    def _let_in(self, inside: socket.socket) -> None:
        exchange, known = plain(), False
        while size := self.rfile.read(4):
            frame = self.rfile.read(int.from_bytes(size))
            key, version, correlation = struct.unpack(">hhi", frame[:8])
            if key == SaslHandshakeRequest.API_KEY:
                mechanism = SaslHandshakeRequest.decode(frame, version=version, header=True).mechanism
                exchange = MECHANISMS[mechanism]()
                next(exchange)
                answer: Any = SaslHandshakeResponse(version=version, error_code=0, mechanisms=[*MECHANISMS])
            elif key == SaslAuthenticateRequest.API_KEY:
                token = SaslAuthenticateRequest.decode(frame, version=version, header=True).auth_bytes
                try:
                    told, known = exchange.send(token)
                    answer = SaslAuthenticateResponse(version=version, error_code=0, auth_bytes=told)
                except PermissionError:
                    answer = SaslAuthenticateResponse(version=version, error_code=REFUSED)
                if known:
                    self.server.proved.append(mechanism)
            elif known or key == API_VERSIONS:
                inside.sendall(size + frame)
                continue
            else:
                return
            answer.with_header(correlation_id=correlation)
            self.wfile.write(answer.encode(header=True, framed=True))

    def _pass_out(self, inside: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):  # the client has left
            while piece := inside.recv(65_536):
                self.wfile.write(piece)


@pytest.fixture
def door() -> Iterator[Door]:
    with Door() as door:
        door.broker.start()
        thread = threading.Thread(target=door.serve_forever)
        thread.start()
        yield door
        door.shutdown()
        thread.join()
        door.broker.kill()


def asking_for(door: Door, mechanism: str) -> KafkaSettings:
    return KafkaSettings(
        servers=[door.address],
        partitions=2,
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism=mechanism,
        sasl_username=NAME,
        sasl_password=PASSWORD,
    )


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_votes_come_through(door: Door, pool: Pool, database_url: str, mechanism: str) -> None:
    kafka = asking_for(door, mechanism)
    log = KafkaLog(kafka, pool)
    with relaying(database_url, kafka), contextlib.closing(log):
        put_each(database_url, "a", "b", "c")
        assert Reader(log).poll_until(3) == ["ev_a", "ev_b", "ev_c"]
    assert set(door.proved) == {mechanism}


@pytest.mark.parametrize("changed", [{"sasl_password": "another"}, {"security_protocol": "PLAINTEXT"}])
def test_who_cannot_prove_it_is_not_let_in(door: Door, pool: Pool, changed: dict[str, str]) -> None:
    kafka = asking_for(door, "SCRAM-SHA-256")
    stranger = KafkaSettings.model_validate(kafka.model_dump() | changed)
    with pool.connection() as connection, pytest.raises(KafkaError):
        Relay(stranger, connection)
    assert door.proved == []
