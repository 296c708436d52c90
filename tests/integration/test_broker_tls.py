"""Votes reach the trainer through a broker that requires TLS with a client certificate."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from kafka.errors import KafkaError

from deploy.local.ports import free_port
from feedback.kafka_log import KafkaLog
from feedback.relay import Relay
from schemas.database import Pool
from schemas.settings import KafkaSettings
from tests.broker import PORTS, Broker, relaying
from tests.events import Reader, put_each


class Tunnel:
    """A proxy that terminates TLS before a broker and requires a client certificate of
    `authority`."""

    def __init__(self, authority: trustme.CA) -> None:
        self.port = free_port(PORTS)
        self.broker = Broker(advertised=f"127.0.0.1:{self.port}")
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(self._tls)
        authority.configure_trust(self._tls)
        self._tls.verify_mode = ssl.CERT_REQUIRED
        self._loop = asyncio.new_event_loop()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inside = await asyncio.open_connection("127.0.0.1", self.broker.port)

        async def pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while piece := await source.read(65_536):
                    target.write(piece)
                    await target.drain()
            target.close()

        await asyncio.gather(pass_on(reader, inside[1]), pass_on(inside[0], writer))

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self.broker.start()
        server = self._loop.run_until_complete(
            asyncio.start_server(self._connect, "127.0.0.1", self.port, ssl=self._tls)
        )
        thread = threading.Thread(target=self._loop.run_forever)
        thread.start()
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(server.close)
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            self.broker.kill()
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    own = authority.issue_cert("hearken")
    own.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    own.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    return authority


@pytest.fixture
def kafka(authority: trustme.CA, tmp_path: Path) -> Iterator[KafkaSettings]:
    tunnel = Tunnel(authority)
    with tunnel.running():
        yield KafkaSettings(
            servers=[f"127.0.0.1:{tunnel.port}"],
            partitions=2,
            security_protocol="SSL",
            ssl_cafile=tmp_path / "authority.pem",
            ssl_certfile=tmp_path / "cert.pem",
            ssl_keyfile=tmp_path / "key.pem",
        )


def test_votes_come_through(kafka: KafkaSettings, pool: Pool, database_url: str) -> None:
    log = KafkaLog(kafka, pool)
    with relaying(database_url, kafka), contextlib.closing(log):
        put_each(database_url, "a", "b", "c")
        assert Reader(log).poll_until(3) == ["ev_a", "ev_b", "ev_c"]


def test_a_broker_of_another_authority_is_not_spoken_to(
    kafka: KafkaSettings, pool: Pool, tmp_path: Path
) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "another.pem"))
    stranger = kafka.model_copy(update={"ssl_cafile": tmp_path / "another.pem"})
    with pool.connection() as connection, pytest.raises(KafkaError):
        Relay(stranger, connection)
