"""While Postgres is away, replies go on; turns and votes wait on the disk and are recorded in order."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from websockets.sync.client import connect

from tests.conftest import new_database
from tests.service import ADMIN, PUBLIC, Service, run_service


@pytest.fixture
def service(
    postgres_url: str, engine: str, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Service]:
    """A service of the test's own, that notices an outage soon, and looks keys up each time."""
    monkeypatch.setattr("feedback.spool.PATIENCE", 0.3)
    monkeypatch.setattr("feedback.spool.RETRY", 0.1)
    monkeypatch.setattr("serving.key_cache._PATIENCE", 0.1)
    monkeypatch.setattr("feedback.aside.RETRY", 0.1)
    monkeypatch.setattr("feedback.aside.PATIENCE", 0.5)
    with (
        new_database(postgres_url) as url,
        run_service(url, tmp_path, tiny_base, engines=[engine]) as running,
    ):
        running.services.keys._ttl = 0
        yield running


@contextmanager
def outage(postgres_url: str, service: Service) -> Iterator[None]:
    """The service's database takes no connections."""
    name = (service.settings.database_url or "").partition("?")[0].rsplit("/", 1)[1]
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f'alter database "{name}" with allow_connections false'.encode())
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name]
        )
        try:
            yield
        finally:
            connection.execute(f'alter database "{name}" with allow_connections true'.encode())


def thumb(reply: dict[str, Any], value: str, **fields: object) -> dict[str, object]:
    return {"completion_id": reply["id"], "type": "thumb", "value": value, **fields}


def test_replies_go_on_and_votes_are_recorded_afterwards(service: Service, postgres_url: str) -> None:
    before = service.chat(user="ada")
    service.chat(key=PUBLIC)
    with service.client() as admin, service.client(PUBLIC) as page, outage(postgres_url, service):
        reply = service.chat(user="ada", metadata={"conversation_id": "c-1"})
        token = reply["hearken"]["feedback_token"]
        votes = [
            (admin, thumb({"id": "chatcmpl-t0196f2b0c0000000000000000000"}, "up")),
            (admin, thumb(before, "up")),
            (page, thumb(reply, "up", feedback_token=token)),
            (page, thumb(reply, "down", feedback_token=token, comment="no\u2028more")),
        ]
        answers = [client.post("/v1/feedback", json=vote) for client, vote in votes]
        assert [answer.status_code for answer in answers] == [202] * 4
        assert {answer.json()["status"] for answer in answers} == {"spooled"}
        forged = page.post("/v1/feedback", json=thumb(reply, "up", feedback_token="x"))
        assert (forged.status_code, forged.json()["error"]["code"]) == (403, "invalid_feedback_token")
        assert admin.get("/readyz").status_code == 503
        assert service.services.spool.size > 0
        begun = time.monotonic()
        service.chat()
        assert time.monotonic() - begun < 10  # the pool alone would wait for 30 seconds
    service.until(lambda: not service.services.spool.active)
    never, *ids = [answer.json()["id"] for answer in answers]
    assert service.rows("select id, superseded_by from feedback order by created_at") == [
        (ids[0], None),
        (ids[1], ids[2]),
        (ids[2], None),
    ]
    service.until(lambda: not service.services.spool.holds(never))  # it was on a reply that never was
    assert service.counted("hearken_spooled_refused_total") == 1
    [(text, rater, answers_rater)] = service.rows(
        "select r.text, t.rater, f.rater from turns t join replies r on r.turn_id = t.id"
        " join feedback f on f.turn_id = t.id where t.id = %s and f.id = %s",
        reply["id"],
        ids[2],
    )
    assert text == reply["choices"][0]["message"]["content"]
    assert rater == answers_rater
    assert service.rows("select count(*) from outbox") == [(3,)]
    with service.client() as client:
        assert client.post("/v1/feedback", json=thumb(before, "down")).status_code == 201


def test_a_websocket_hears_that_its_vote_is_spooled(service: Service, postgres_url: str) -> None:
    reply = service.chat()
    with connect(service.url.replace("http", "ws") + "/v1/live") as socket:
        socket.send(json.dumps({"type": "auth", "key": ADMIN}))
        assert json.loads(socket.recv(timeout=10))["type"] == "ready"
        with outage(postgres_url, service):
            socket.send(json.dumps({"type": "feedback", "id": "v", "feedback": thumb(reply, "up")}))
            answer = json.loads(socket.recv(timeout=10))
    assert (answer["type"], answer["feedback"]["status"]) == ("recorded", "spooled")
    service.until(lambda: service.rows("select id from feedback") == [(answer["feedback"]["id"],)])


def test_a_key_that_nobody_knows_yet_is_told_to_come_back(service: Service, postgres_url: str) -> None:
    with service.client("sk-hearken-never-seen-before") as client, outage(postgres_url, service):
        assert client.get("/v1/models").status_code == 503
