"""Two serving processes over one database and one engine agree."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row
from websockets.sync.client import ClientConnection, connect

from serving import rollout
from tests.conftest import new_database
from tests.service import ADMIN, PUBLIC, Service, run_api, run_service

ASK = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def replicas(
    postgres_url: str, engine: str, tiny_base: Path, tmp_path: Path
) -> Iterator[tuple[Service, Service]]:
    """Yields two services whose promotions wait for an operator."""
    with (
        new_database(postgres_url) as url,
        run_service(url, tmp_path, tiny_base, engines=[engine], promotion="manual") as one,
        run_api(one.settings) as (other_url, other_app),
    ):
        other = Service(other_url, one.settings, one.registry, other_app)
        with other.client() as client:
            other.until(lambda: client.get("/readyz").status_code == 200)
        yield one, other
    with httpx.Client(base_url=engine) as client:
        for card in client.get("/v1/models").json()["data"]:
            client.post("/v1/unload_lora_adapter", json={"lora_name": card["id"]})


@contextmanager
def listening(service: Service, user: str, key: str = ADMIN) -> Iterator[ClientConnection]:
    """Yields a websocket that chatted for `user`, and so is notified of that user's votes."""
    with connect(service.url.replace("http", "ws") + "/v1/live") as socket:
        socket.send(json.dumps({"type": "auth", "key": key}))
        chat = {"type": "chat", "id": "a", "messages": ASK, "max_tokens": 1, "user": user}
        socket.send(json.dumps(chat))
        while json.loads(socket.recv(timeout=10))["type"] != "done":
            pass
        yield socket


def hear(socket: ClientConnection, count: int) -> list[tuple[str, str]]:
    """Returns the next notification: `policy` and its id, or `learned` and the vote's id."""
    frames = [json.loads(socket.recv(timeout=20)) for _ in range(count)]
    return [(frame["type"], frame.get("feedback_id") or frame["policy"]) for frame in frames]


def vote(service: Service, completion: str, key: str | None = None, **fields: Any) -> tuple[int, Any]:
    headers = {"Idempotency-Key": key} if key else {}
    body = {"completion_id": completion, "type": "thumb", "value": "up", **fields}
    with service.client() as client:
        response = client.post("/v1/feedback", json=body, headers=headers)
    return response.status_code, response.json()


def learned_by(service: Service, policy: str) -> str:
    """Stores, as the trainer does, a vote on a reply to ada that `policy` was the first to learn from."""
    _, recorded = vote(service, service.chat(user="ada", max_tokens=1)["id"])
    service.rows(
        "insert into training_examples (event_id, project, feedback_id, turn_id, type, value, rater,"
        " conversation_id, created_at, first_policy)"
        " select event_id, project, id, turn_id, type, value, rater, 'c', now(), %s"
        " from feedback where id = %s returning 1",
        policy,
        recorded["id"],
    )
    return str(recorded["id"])


def answers(service: Service, conversation: dict[str, str]) -> str:
    return str(service.chat(max_tokens=1, metadata=conversation)["system_fingerprint"])


def test_votes_and_idempotency_keys_are_the_same_through_both(replicas: tuple[Service, Service]) -> None:
    one, other = replicas
    completion = one.chat()["id"]
    _, first = vote(one, completion)
    _, second = vote(other, completion, value="down")
    with one.client() as client:
        found = client.get(f"/v1/feedback/{first['id']}").json()
    assert (found["status"], found["superseded_by"]) == ("superseded", second["id"])

    assert vote(one, completion, key="k-1") == vote(other, completion, key="k-1")
    assert vote(other, completion, key="k-1", value="down")[0] == 409
    assert len(one.rows("select from feedback")) == 3


def test_an_operators_change_at_one_reaches_both(replicas: tuple[Service, Service]) -> None:
    one, other = replicas
    one.registry.publish("p1-aaaaaa", seed=1)
    with one.client() as operator:
        created = operator.post("/v1/rollouts", json={"policy": "p1-aaaaaa", "share": 0.5}).json()
        conversations = [{"conversation_id": f"c-{number}"} for number in range(12)]
        other.until(lambda: "p1-aaaaaa" in {answers(other, each) for each in conversations})
        chosen = [answers(other, each) for each in conversations]
        assert [answers(one, each) for each in conversations] == chosen
        assert set(chosen) == {"p0", "p1-aaaaaa"}
        operator.post(f"/v1/rollouts/{created['id']}/promote")
    other.until(lambda: {answers(other, each) for each in conversations} == {"p1-aaaaaa"})
    with other.client() as operator:
        operator.post(f"/v1/rollouts/{created['id']}/rollback")
    one.until(lambda: {answers(one, each) for each in conversations} == {"p0"})


async def test_both_announce_each_policy_that_went_live_once(
    replicas: tuple[Service, Service],
) -> None:
    """Two go live in one transaction, so that no process sees the first of them live."""
    one, other = replicas
    votes = [learned_by(one, policy) for policy in ("p1-aaaaaa", "p2-bbbbbb", "p3-cccccc")]
    one.registry.publish("p1-aaaaaa", seed=1)
    one.registry.publish("p2-bbbbbb", seed=2)
    one.registry.publish("p3-cccccc", seed=3)
    url = one.settings.database_url or ""
    async with await psycopg.AsyncConnection.connect(
        url, autocommit=True, row_factory=dict_row
    ) as connection:
        with listening(one, "ada") as here, listening(other, "ada") as there:
            async with connection.transaction():
                await rollout.promote(connection, "default", "p1-aaaaaa")
                await rollout.promote(connection, "default", "p2-bbbbbb")
            news = [("policy", "p2-bbbbbb"), ("learned", votes[0]), ("learned", votes[1])]
            assert [hear(here, 3), hear(there, 3)] == [news, news]
            await rollout.rollback(connection, "default", "it was rude")
            assert [hear(here, 1), hear(there, 1)] == [[("policy", "p1-aaaaaa")]] * 2
            await rollout.promote(connection, "default", "p3-cccccc")
            news = {("policy", "p3-cccccc"), ("learned", votes[2])}
            # The announcement of the rollback may find p3's votes first.
            assert [set(hear(here, 2)), set(hear(there, 2))] == [news, news]


def test_a_vote_through_one_is_announced_by_the_other(replicas: tuple[Service, Service]) -> None:
    one, other = replicas
    recorded = learned_by(one, "p1-aaaaaa")
    one.registry.publish("p1-aaaaaa", seed=1)
    with (
        listening(other, "ada") as ada,
        listening(other, "ben") as ben,
        listening(other, "ada", key=PUBLIC) as somebody,
    ):
        with one.client() as operator:
            created = operator.post("/v1/rollouts", json={"policy": "p1-aaaaaa", "share": 0.1}).json()
            operator.post(f"/v1/rollouts/{created['id']}/promote")
        assert hear(ada, 2) == [("policy", "p1-aaaaaa"), ("learned", recorded)]
        for socket in (ben, somebody):
            assert hear(socket, 1) == [("policy", "p1-aaaaaa")]
            with pytest.raises(TimeoutError):
                socket.recv(timeout=0.5)
