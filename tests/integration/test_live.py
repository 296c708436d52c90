"""/v1/live takes chats, cancellations and votes, and notifies, over one websocket."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socket import IPPROTO_TCP, TCP_CORK
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from serving import live
from serving.completion import Completion
from serving.keys import key_hash
from tests.service import ADMIN, PUBLIC, Service

ASK = [{"role": "user", "content": "What is the capital of France?"}]


class Socket:
    """A client's end."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def send(self, **frame: Any) -> None:
        self.connection.send(json.dumps(frame))

    def next(self, *kinds: str, id: str | None = None) -> dict[str, Any]:
        """The next frame of one of these kinds (and with this id, if given); others are passed over."""
        while True:
            frame: dict[str, Any] = json.loads(self.connection.recv(timeout=20))
            if frame["type"] in kinds and id in (None, frame.get("id")):
                return frame


@contextmanager
def dial(service: Service) -> Iterator[Socket]:
    with connect(service.url.replace("http", "ws") + "/v1/live") as connection:
        yield Socket(connection)


@pytest.fixture
def socket(service: Service) -> Iterator[Socket]:
    with dial(service) as socket:
        socket.send(type="auth", key=PUBLIC)
        assert socket.next("ready")["policy"] == "p0"
        yield socket


def test_tokens_stream_and_then_the_completion_comes(service: Service, socket: Socket) -> None:
    socket.send(type="chat", id="a", messages=ASK, n=2, max_tokens=8, temperature=0)
    texts = ["", ""]
    while (frame := socket.next("token", "done"))["type"] == "token":
        texts[frame["choice"]] += frame["text"]
    completion = frame["completion"]
    assert frame["id"] == "a"
    assert [choice["message"]["content"] for choice in completion["choices"]] == texts
    assert service.rows("select count(*) from turns where id = %s", completion["id"]) == [(1,)]


def test_a_field_for_servers_is_refused(socket: Socket) -> None:
    socket.send(type="chat", id="a", messages=ASK, structured_outputs={"regex": "(a+)+"})
    assert socket.next("error", "done")["error"]["code"] == "parameter_not_allowed"


def test_several_replies_run_at_once(socket: Socket) -> None:
    socket.send(type="chat", id="long", messages=ASK, max_tokens=180, n=8, temperature=0)
    socket.send(type="chat", id="short", messages=ASK, max_tokens=8, temperature=0)
    order: list[str] = []
    while order.count("done") < 2:
        frame = socket.next("token", "done")
        order.append("done" if frame["type"] == "done" else frame["id"])
    assert "short" in order
    assert "long" in order[order.index("short") :]


def test_a_cancelled_chat_stops_and_leaves_nothing(service: Service, socket: Socket) -> None:
    [before] = service.rows("select count(*) from turns")
    socket.send(type="chat", id="a", messages=ASK, max_tokens=200, n=4, temperature=0)
    socket.next("token")
    socket.send(type="cancel", id="a")
    assert socket.next("error", "done")["error"]["code"] == "cancelled"
    service.until(lambda: service.counted("hearken_requests_in_flight") == 0)
    assert service.rows("select count(*) from turns") == [before]
    socket.send(type="chat", id="a", messages=ASK, max_tokens=2)
    assert socket.next("error", "done")["type"] == "done"


def test_a_chat_that_is_cancelled_in_the_same_moment_ends(socket: Socket) -> None:
    wire = socket.connection.socket
    wire.setsockopt(IPPROTO_TCP, TCP_CORK, 1)  # both messages come at once
    socket.send(type="chat", id="a", messages=ASK, max_tokens=200)
    socket.send(type="cancel", id="a")
    wire.setsockopt(IPPROTO_TCP, TCP_CORK, 0)
    assert socket.next("error", "done", id="a")["error"]["code"] == "cancelled"


def test_a_chat_that_is_being_stored_is_not_cancelled(
    socket: Socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, record = threading.Event(), Completion.record

    async def slow(completion: Completion) -> None:
        begun.set()
        await asyncio.sleep(0.3)
        await record(completion)

    monkeypatch.setattr(Completion, "record", slow)
    socket.send(type="chat", id="a", messages=ASK, max_tokens=2)
    assert begun.wait(20)
    socket.send(type="cancel", id="a")
    assert socket.next("error", "done", id="a")["type"] == "done"


def test_a_disconnect_stops_running_chats(service: Service) -> None:
    with dial(service) as socket:
        socket.send(type="auth", key=PUBLIC)
        socket.send(type="chat", id="a", messages=ASK, max_tokens=200, n=8, temperature=0)
        socket.next("token")
    service.until(lambda: service.counted("hearken_requests_in_flight") == 0)


def test_a_vote_is_acknowledged_when_it_is_durable(service: Service, socket: Socket) -> None:
    socket.send(type="chat", id="a", messages=ASK, max_tokens=4)
    completion = socket.next("done")["completion"]
    token = completion["hearken"]["feedback_token"]
    vote = {"completion_id": completion["id"], "type": "thumb", "value": "up", "feedback_token": token}
    before = service.counted("hearken_vote_seconds_count")
    socket.send(type="feedback", id="v", feedback=vote)
    recorded = socket.next("recorded")
    assert service.counted("hearken_vote_seconds_count") == before + 1
    assert recorded["id"] == "v"
    assert service.rows("select turn_id from feedback where id = %s", recorded["feedback"]["id"]) == [
        (completion["id"],)
    ]
    socket.send(type="feedback", id="w", feedback={**vote, "feedback_token": "forged"})
    assert socket.next("error", "recorded")["error"]["code"] == "invalid_feedback_token"


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("not json", "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        ("[]", "invalid_value"),
        ('{"type": "dance", "id": "x"}', "invalid_value"),
        ('{"type": "chat", "messages": []}', "invalid_value"),
        ('{"type": "chat", "id": "x", "messages": []}', "invalid_value"),
        ('{"type": "chat", "id": "x", "messages": [{"role": "user", "content": "\\ud800"}]}', "invalid_text"),
        ('{"type": "chat", "id": "x", "model": "p0", "messages": [{"role": "user", "content": "a"}]}',
         "forbidden"),
        ('{"type": "chat", "id": "x", "max_tokens": 999, "messages": [{"role": "user", "content": "a"}]}',
         "context_length_exceeded"),
        ('{"type": "feedback", "id": "x"}', "invalid_value"),
        ('{"type": "feedback", "id": "x", "feedback": {"type": "thumb", "value": "up", "completion_id": "no",'
         ' "feedback_token": "t"}}', "completion_not_found"),
        ('{"type": "chat", "id": "x", "pad": "' + "x" * 1_100_000 + '"}', "body_too_large"),
    ],
)  # fmt: skip
def test_a_wrong_message_gets_an_error_and_the_websocket_stays_open(
    socket: Socket, frame: str | bytes, code: str
) -> None:
    socket.connection.send(frame)
    assert socket.next("error")["error"]["code"] == code
    socket.send(type="chat", id="after", messages=ASK, max_tokens=2)
    assert socket.next("done")["id"] == "after"


@pytest.mark.parametrize(
    "first",
    ['{"type": "auth", "key": "sk-hearken-nobody"}', '{"type": "chat"}', "not json", '{"type": "auth"}'],
)
def test_without_a_key_the_socket_closes(service: Service, first: str) -> None:
    with dial(service) as socket:
        socket.connection.send(first)
        assert socket.next("error")["error"]["code"] in ("invalid_api_key", "invalid_json")
        with pytest.raises(ConnectionClosed) as closed:
            socket.connection.recv(timeout=5)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4401


def closed_with(socket: Socket) -> int:
    """The code with which the service closes the websocket."""

    def read_all() -> None:
        while True:
            socket.connection.recv(timeout=10)

    with pytest.raises(ConnectionClosed) as closed:
        read_all()
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


def test_a_flood_of_messages_ends_its_own_websocket(service: Service, socket: Socket) -> None:
    with dial(service) as flooding:
        flooding.send(type="auth", key=PUBLIC)
        with suppress(ConnectionClosed):
            for _ in range(300):
                flooding.send(type="nonsense")
        assert closed_with(flooding) == 1008
    socket.send(type="chat", id="a", messages=ASK, max_tokens=2)
    assert socket.next("done")["id"] == "a"


def test_an_address_has_so_many_websockets(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.services.settings.serving, "websockets_per_address", 2)
    with dial(service) as one, dial(service) as two:
        with dial(service) as third:
            assert third.next("error")["error"]["code"] == "rate_limit_exceeded"
            assert closed_with(third) == 1013
        for socket in (one, two):
            socket.send(type="auth", key=PUBLIC)
            assert socket.next("ready")


def test_a_websocket_that_says_nothing_for_long_is_closed(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_WATCH_SECONDS", 0.05)
    monkeypatch.setattr(live, "_IDLE_SECONDS", 0.1)
    with dial(service) as socket:
        socket.send(type="auth", key=PUBLIC)
        assert closed_with(socket) == 1000


def test_an_admin_may_pin_a_policy(service: Service) -> None:
    with dial(service) as socket:
        socket.send(type="auth", key=ADMIN)
        socket.send(type="chat", id="a", model="p0", messages=ASK, max_tokens=2)
        assert socket.next("done")["completion"]["system_fingerprint"] == "p0"


END = {
    "revoked": "update keys set revoked_at = now() where id = %s returning 1",
    "expires": "update keys set expires_at = now() + interval '1 second' where id = %s returning 1",
}


@pytest.mark.parametrize("end", END)
def test_a_key_that_ends_ends_its_sockets_at_once(service: Service, end: str) -> None:
    """Also those that only listen, and the chats of those that do not."""
    key = f"sk-hearken-soon-to-end-{end}"
    service.rows(
        "insert into keys (id, project, kind, hash) values (%s, 'default', 'secret', %s) returning 1",
        key[11:], key_hash(key),
    )  # fmt: skip
    with dial(service) as socket:
        socket.send(type="auth", key=key)
        socket.send(type="chat", id="a", messages=ASK, max_tokens=2)
        assert socket.next("done", "error")["type"] == "done"
        service.rows(END[end], key[11:])
        ended = time.monotonic()
        assert socket.next("error")["error"]["code"] == "invalid_api_key"
        assert closed_with(socket) == 4401
        assert time.monotonic() - ended < 10  # before the next look at the key


def test_a_key_that_ended_unheard_ends_its_sockets(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database's announcement may be missed."""
    monkeypatch.setattr(service.services.swap, "_on_key_change", lambda _: None)
    monkeypatch.setattr(service.services.keys, "_ttl", 0.01)
    monkeypatch.setattr(live, "_WATCH_SECONDS", 0.05)
    key = "sk-hearken-soon-to-be-revoked-too"
    service.rows(
        "insert into keys (id, project, kind, hash) values ('listening', 'default', 'secret', %s)"
        " returning 1",
        key_hash(key),
    )
    with dial(service) as socket:
        socket.send(type="auth", key=key)
        assert socket.next("ready")
        service.rows("update keys set revoked_at = now() where id = 'listening' returning 1")
        assert socket.next("error")["error"]["code"] == "invalid_api_key"
        assert closed_with(socket) == 4401
