"""Webhooks: each event of the life of votes, rounds and policies is sent, until its receiver has it."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook
from typer.testing import CliRunner

from deploy.cli import app
from deploy.local.ports import free_port
from feedback import retention, webhook_sender
from feedback.store import Store
from feedback.webhook_events import VOTES, write_deliveries
from feedback.webhook_target import TargetResolver, Targets
from hearken_client import WebhookRefused, verify_webhook
from schemas.database import AsyncPool
from schemas.errors import InvalidRequest
from schemas.webhooks import event_body, shown_secret, signed_headers
from tests.client_packages import PYTHON
from tests.integration.test_vote_life import TURN, Loop
from tests.recipes import recipe
from tests.voting import ADMIN, PUBLIC, STRANGER, a_turn, serve_votes
from tests.webhook_receiver import WebhookReceiver

LOOPBACK = {"webhook_networks": ["127.0.0.0/8"]}


class Service:
    """The API over an otherwise empty project, and a receiver."""

    def __init__(self, pool: AsyncPool, client: httpx.AsyncClient, receiver: WebhookReceiver) -> None:
        self.pool = pool
        self.client = client
        self.receiver = receiver
        self.loop = Loop(pool)

    async def add(self, *events: str) -> dict[str, Any]:
        body = {"url": self.receiver.url, "events": list(events)}
        added = await self.client.post("/v1/webhooks", json=body)
        assert added.status_code == 201, added.text
        found: dict[str, Any] = added.json()
        return found

    async def deliveries(self, webhook: dict[str, Any]) -> list[dict[str, Any]]:
        answer = await self.client.get(f"/v1/webhooks/{webhook['id']}/deliveries")
        found: list[dict[str, Any]] = answer.json()["data"]
        return found

    async def delivered(self, webhook: dict[str, Any]) -> list[dict[str, Any]]:
        """The deliveries, once each has been answered well."""
        async with asyncio.timeout(10):
            while True:
                found = await self.deliveries(webhook)
                if all(each["state"] == "delivered" for each in found):
                    return found
                await asyncio.sleep(0.02)

    async def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, [each.body for each in self.receiver.received]
            await asyncio.sleep(0.02)

    async def came(self, webhook: dict[str, Any], count: int) -> list[tuple[str, dict[str, Any]]]:
        """The first events without their numbers, in the order of their types and texts, once so many have
        come."""
        await self.until(lambda: len(self.receiver.received) >= count)
        found = [(type, unnumbered(data)) for type, data in self.receiver.events(webhook["secret"])]
        return sorted(found, key=json.dumps)


def unnumbered(data: dict[str, Any]) -> dict[str, Any]:
    """Returns an event's data without the numbers, which all but a list of votes must have."""
    data = dict(data)
    if "votes" in data:
        data["votes"] = [unnumbered(each) for each in data["votes"]]
    if data.keys() != {"votes"}:
        assert isinstance(data.pop("sequence"), int)
    return data


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    receiver = WebhookReceiver()
    yield receiver
    receiver.close()


@pytest.fixture
async def service(
    database_url: str, async_pool: AsyncPool, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Service]:
    monkeypatch.setattr(webhook_sender, "INTERVAL", 0.05)
    monkeypatch.setattr(webhook_sender, "BACKOFF", (0.1,) * 9)
    monkeypatch.setattr(webhook_sender, "LONGEST_PAUSE", 0.1)
    await Store(async_pool).record_turn(a_turn(TURN))
    async with serve_votes(database_url, serving=LOOPBACK) as url:
        headers = {"Authorization": f"Bearer {ADMIN}"}
        async with httpx.AsyncClient(base_url=url, headers=headers) as client:
            yield Service(async_pool, client, receiver)


async def test_the_life_of_a_vote_is_sent(service: Service) -> None:
    loop = service.loop
    await loop.policy("p0", "live", -60)
    await loop.live("p0")
    hook = await service.add()
    vote = await loop.vote()
    about = {"id": vote, "completion_id": TURN, "choice": 0, "type": "thumb"}
    recorded = (
        "vote.recorded",
        {"votes": [{**about, "value": {"value": "up", "reasons": []}, "policy": "p0"}]},
    )
    assert await service.came(hook, 1) == [recorded]
    sent = service.receiver.received[0]
    assert Webhook(hook["secret"]).verify(sent.body, sent.headers)["type"] == "vote.recorded"

    async def then(*expected: tuple[str, dict[str, Any]]) -> None:
        assert await service.came(hook, len(expected)) == sorted(expected, key=json.dumps)
        service.receiver.received.clear()

    service.receiver.received.clear()
    await loop.write("insert into rounds (project, parent, outcome) values ('default', 'p0', 'running')")
    await loop.write("update training_examples set held_out_in = (select max(id) from rounds)")
    (round,) = [data["round"] for type, data in await service.came(hook, 2) if type == "round.started"]
    await then(
        ("round.started", {"round": round, "parent": "p0"}),
        ("vote.held_out", {"votes": [{**about, "round": round}]}),
    )
    publish = (
        "with ended as (update rounds set outcome = 'published', policy = 'NAME' where outcome = 'running'),"
        " learned as (update training_examples set first_policy = 'NAME' where first_policy is null)"
        " insert into policies (project, id, parent, base_digest, directory, digest, manifest, state)"
        " values ('default', 'NAME', 'p0', '', '', '', '{}', 'published')"
    )
    await loop.write(publish.replace("NAME", "p1"))
    await loop.write(publish.replace("NAME", "p2"))
    ended = {"round": round, "parent": "p0", "outcome": "published", "reason": None, "policy": "p1"}
    await then(
        ("round.ended", ended),
        ("policy.published", {"policy": "p1", "parent": "p0"}),
        ("vote.learned", {"policy": "p1", "votes": [about]}),
        ("policy.published", {"policy": "p2", "parent": "p0"}),
    )
    live = "update policies set state = 'live', live_at = now() where id = 'p1'"
    await loop.write(live)
    await loop.live("p1")
    await then(
        ("policy.live", {"policy": "p1", "replaces": "p0"}), ("vote.live", {"policy": "p1", "votes": [about]})
    )
    await loop.write("update policies set state = 'rolled_back', reason = 'worse' where id = 'p1'")
    await loop.live("p0")
    await then(
        ("policy.live", {"policy": "p0", "replaces": "p1"}),
        ("policy.rolled_back", {"policy": "p1", "reason": "worse"}),
        ("vote.taken_back", {"policy": "p1", "votes": [about]}),
    )
    await loop.write(live.replace("p1", "p2"))
    await loop.live("p2")
    await then(
        ("policy.live", {"policy": "p2", "replaces": "p0"}), ("vote.live", {"policy": "p2", "votes": [about]})
    )
    await loop.write(
        "insert into rollouts (id, project, policy, replaces, kind, share, state)"
        " values ('rollout-1', 'default', 'p1', 'p2', 'canary', 0.1, 'running')"
    )
    await loop.write("update rollouts set state = 'rolled_back', reason = 'worse'")
    canary = {"rollout": "rollout-1", "policy": "p1", "replaces": "p2", "share": 0.1}
    await then(
        ("rollout.ended", {**canary, "state": "rolled_back", "reason": "worse"}),
        ("rollout.started", {**canary, "state": "running", "reason": None}),
    )
    await loop.write(
        "insert into policies (project, id, parent, base_digest, directory, digest, manifest, state, reason)"
        " values ('default', 'p3', 'p0', '', '', '', '{}', 'rejected', 'harm')"
    )
    await then(("policy.rejected", {"policy": "p3", "reason": "harm"}))
    await loop.write(
        "insert into refused_candidates (project, policy, events) values ('default', 'p3', '{}')"
    )
    await loop.write("update training_examples set first_policy = 'p3'")
    await loop.write("update policies set state = 'retired' where id = 'p3'")
    await then(
        ("policy.published", {"policy": "p3", "parent": "p0"}),
        ("vote.learned", {"policy": "p3", "votes": [about]}),
    )
    newer = await loop.vote()
    await service.client.delete(f"/v1/feedback/{newer}")
    changed = await service.came(hook, 3)
    assert [(type, data["votes"][0]["id"]) for type, data in changed] == [
        ("vote.recorded", newer), ("vote.retracted", newer), ("vote.superseded", vote)
    ]  # fmt: skip


async def test_a_receiver_puts_what_comes_in_order_by_the_sequence(service: Service) -> None:
    """Also where a transaction began first, and came last to the row."""
    loop = service.loop
    await loop.policy("p0", "live", -60)
    await loop.live("p0")
    hook = await service.add()
    votes = [await loop.vote() for _ in range(3)]
    async with service.pool.connection() as early, service.pool.connection() as late:
        await early.execute("select now()")  # its transaction has begun
        await late.execute("update policies set state = 'rolled_back', reason = 'no' where id = 'p0'")
        await late.commit()
        await early.execute("update policies set state = 'live' where id = 'p0'")
        await early.execute("update policies set state = 'rejected', reason = 'yes' where id = 'p0'")
        await early.commit()
    expected = {"policy.rolled_back", "policy.rejected", "vote.recorded", "vote.superseded"}
    await service.until(lambda: expected <= {type for type, _ in service.receiver.events(hook["secret"])})
    await service.until(lambda: not missing_votes(service.receiver.events(hook["secret"]), votes))
    found = []
    for type, data in reversed(service.receiver.events(hook["secret"])):
        found += [(each["sequence"], type, each) for each in data.get("votes", [data])]
    assert len({number for number, _, _ in found}) == len(found)
    told = [(type, about) for _, type, about in sorted(found, key=lambda each: each[0])]
    of_policy = [type for type, _ in told if type.startswith("policy.")]
    assert of_policy == ["policy.rolled_back", "policy.rejected"]
    for replaced, by in pairwise(votes):
        life = [(type, about["id"]) for type, about in told if about.get("id") in (replaced, by)]
        assert life.index(("vote.recorded", replaced)) < life.index(("vote.superseded", replaced))


def missing_votes(events: list[tuple[str, dict[str, Any]]], votes: list[str]) -> set[str]:
    """Returns the votes that no event says yet were recorded, or, all but the last, superseded."""
    told = {(type, each["id"]) for type, data in events for each in data.get("votes", [])}
    recorded = {vote for vote in votes if ("vote.recorded", vote) not in told}
    return recorded | {vote for vote in votes[:-1] if ("vote.superseded", vote) not in told}


async def test_what_a_receiver_refuses_is_sent_again_until_it_has_it(service: Service) -> None:
    hook = await service.add("vote.recorded")
    service.receiver.answers = [500, 302]
    await service.loop.vote()
    await service.until(lambda: len(service.receiver.received) == 3)
    assert len({each.headers["webhook-id"] for each in service.receiver.received}) == 1
    (delivery,) = await service.delivered(hook)
    assert (delivery["attempts"], delivery["status"]) == (3, 204)
    assert {each.path for each in service.receiver.received} == {"/hook"}  # no redirect is followed

    since = datetime.now(UTC) - timedelta(minutes=1)
    again = await service.client.post(f"/v1/webhooks/{hook['id']}/replay", json={"since": since.isoformat()})
    assert again.json()["replayed"] == 1
    await service.until(lambda: len(service.receiver.received) == 4)
    assert len({each.headers["webhook-id"] for each in service.receiver.received}) == 1


async def test_many_deliveries_are_replayed_and_deleted_in_batches(
    service: Service, async_pool: AsyncPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feedback.webhooks.BATCH", 2)
    hook, other = await service.add("round.ended"), await service.add("round.started")
    async with async_pool.connection() as connection:
        await connection.execute(
            "insert into webhook_deliveries (id, project, endpoint, type, payload, delivered_at)"
            " select 'msg_' || lpad(n::text, 12, '0') || e.id, e.project, e.id, 'round.ended', '{}', now()"
            " from generate_series(1, 5) as n, webhook_endpoints e"
        )
    await service.client.post(f"/v1/webhooks/{other['id']}/replay", json={"since": "2100-01-01T00:00:00Z"})
    assert not service.receiver.received
    again = await service.client.post(
        f"/v1/webhooks/{hook['id']}/replay", json={"since": "1970-01-01T00:00:00Z"}
    )
    assert again.json()["replayed"] == 5
    await service.until(lambda: len(service.receiver.received) == 5)
    assert (await service.client.delete(f"/v1/webhooks/{hook['id']}")).json()["deleted"]
    async with async_pool.connection() as connection:
        cursor = await connection.execute("select endpoint, count(*) from webhook_deliveries group by 1")
        assert [tuple(row.values()) for row in await cursor.fetchall()] == [(other["id"], 5)]
    assert (await service.client.delete(f"/v1/webhooks/{hook['id']}")).status_code == 404


async def test_a_receiver_that_is_gone_is_left_alone(service: Service) -> None:
    hook = await service.add()
    service.receiver.answers = [410]
    await service.loop.vote()
    await service.until(lambda: len(service.receiver.received) == 1)
    async with asyncio.timeout(10):
        while not (await service.client.get("/v1/webhooks")).json()["data"][0]["disabled_at"]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await service.loop.vote("u_bob")  # while it is disabled, nothing is kept for it
    await service.client.post(f"/v1/webhooks/{hook['id']}/enable")
    await service.until(lambda: len(service.receiver.received) == 2)
    await service.loop.vote("u_carl")  # whose event comes after one of Bob's would
    await service.until(lambda: len(service.receiver.received) == 3)
    assert len(await service.delivered(hook)) == 2


async def test_many_votes_come_in_few_deliveries(async_pool: AsyncPool) -> None:
    loop = Loop(async_pool)
    await Store(async_pool).record_turn(a_turn(TURN))
    await loop.write(
        "insert into webhook_endpoints (id, project, url, types, secret)"
        " values ('we_1', 'default', '', '{}', '')"
    )
    for rater in range(VOTES + 20):
        await loop.vote(f"u_{rater}")
    await loop.policy("p0", "live", -60)
    await loop.write("update training_examples set first_policy = 'p1'")
    await loop.write(
        "insert into policies (project, id, parent, base_digest, directory, digest, manifest, state)"
        " values ('default', 'p1', 'p0', '', '', '', '{}', 'published')"
    )
    while await write_deliveries(async_pool):
        pass
    async with async_pool.connection() as connection:
        rows = await (await connection.execute("select type, payload from webhook_deliveries")).fetchall()
        left = await (await connection.execute("select * from webhook_events")).fetchall()
        await connection.execute("update webhook_deliveries set id = 'msg_00' || substr(id, 7)")
    assert left == []
    votes: dict[str, list[str]] = {}
    for row in rows:
        found = json.loads(row["payload"])["data"].get("votes", [])
        assert len(found) <= VOTES
        votes.setdefault(row["type"], []).extend(vote["id"] for vote in found)
    assert [len(set(votes[type])) for type in ("vote.recorded", "vote.learned")] == [VOTES + 20] * 2
    assert len(rows) == 5  # two pages of each, and the policy

    await retention.run_maintenance(async_pool, None)
    async with async_pool.connection() as connection:
        rows = await (await connection.execute("select id from webhook_deliveries")).fetchall()
    assert rows == []


async def test_who_may_say_where_events_go(service: Service) -> None:
    hook = await service.add("policy.live")
    assert "secret" not in (await service.client.get("/v1/webhooks")).json()["data"][0]
    stranger = {"Authorization": f"Bearer {STRANGER}"}
    assert (await service.client.get("/v1/webhooks", headers=stranger)).json()["data"] == []
    for method, path in (("DELETE", ""), ("POST", "/enable"), ("GET", "/deliveries")):
        answer = await service.client.request(method, f"/v1/webhooks/{hook['id']}{path}", headers=stranger)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "webhook_not_found")
    visitor = {"Authorization": f"Bearer {PUBLIC}"}
    assert (await service.client.get("/v1/webhooks", headers=visitor)).status_code == 403
    for body, param in (
        ({"url": "ftp://example.com"}, "url"),
        ({"url": "https://ada:secret@example.com"}, "url"),
        ({"url": "https://example.com\\@127.0.0.1/"}, "url"),
        ({"url": "https://[::1"}, "url"),
        ({"url": "https:///hook"}, "url"),
        ({"url": "http://10.0.0.1/"}, "url"),
        ({"url": "https://169.254.169.254/"}, "url"),
        ({"url": "https://example.com", "events": ["vote.imagined"]}, "events[0]"),
    ):
        refused = await service.client.post("/v1/webhooks", json=body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param), body
    since = {"since": "0001-01-01T00:00:00"}
    again = await service.client.post(f"/v1/webhooks/{hook['id']}/replay", json=since)
    assert again.json() == {"id": hook["id"], "replayed": 0}
    assert (await service.client.delete(f"/v1/webhooks/{hook['id']}")).json()["deleted"]
    assert (await service.client.get("/v1/webhooks")).json()["data"] == []


@pytest.mark.parametrize(
    ("address", "scheme", "allowed"),
    [
        ("93.184.215.14", "https", True),
        ("93.184.215.14", "http", False),
        ("2606:2800:21f::1", "https", True),
        ("127.0.0.1", "https", False),
        ("::1", "https", False),
        ("::ffff:127.0.0.1", "https", False),
        ("169.254.169.254", "https", False),
        ("100.64.0.1", "https", False),
        ("64:ff9b::a00:1", "https", False),
        ("2002:a00:1::", "https", False),
        ("224.0.0.1", "https", False),
        ("10.1.2.3", "http", True),
        ("::ffff:10.1.2.3", "http", True),
    ],
)
def test_addresses_that_webhooks_may_go_to(address: str, scheme: str, allowed: bool) -> None:
    assert Targets(["10.0.0.0/8"]).allow(address, scheme) is allowed


async def test_a_name_of_this_machine_is_refused_when_a_connection_is_made() -> None:
    Targets([]).check("https://localhost/hook")  # a name is not resolved when it is stored
    with pytest.raises(OSError, match="not allowed"):
        await TargetResolver(Targets([]), "https").resolve("localhost", 443)
    with pytest.raises(InvalidRequest):
        Targets([]).check("http://localhost/hook")


def test_a_webhook_that_somebody_else_sent_is_refused() -> None:
    secret, at = "whsec_c2VjcmV0IG9mIHRlc3Rz", datetime.now(UTC)
    body = '{"type": "vote.live", "timestamp": "now", "data": {}}'
    headers = {
        "Webhook-Id": "msg_1",
        "Webhook-Timestamp": str(int(at.timestamp())),
        "Webhook-Signature": "v1,else " + Webhook(secret).sign("msg_1", at, body),
    }
    assert verify_webhook(body.encode(), headers, secret)["type"] == "vote.live"
    for wrong in (
        (body.replace("live", "dead"), headers, secret),
        (body, {**headers, "Webhook-Id": "msg_2"}, secret),
        (body, {**headers, "Webhook-Timestamp": "1"}, secret),
        (body, {**headers, "Webhook-Timestamp": "9" * 5_000}, secret),
        (body, {}, secret),
        (body, headers, "whsec_b3RoZXI="),
        (body, headers, "no secret"),
    ):
        with pytest.raises(WebhookRefused):
            verify_webhook(*wrong)
    with pytest.raises(WebhookRefused):
        verify_webhook(b"\xff", headers, secret)  # no text at all


def test_the_receiver_of_the_documents(tmp_path: Path) -> None:
    port, key = free_port(), b"secret of tests"
    code = recipe("webhooks.md", "Receive them", "python", webhook_secret=shown_secret(key), port=str(port))
    environment = {"PYTHONPATH": str(PYTHON), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as receiver:
        body, at = (
            event_body("vote.live", datetime.now(UTC), {"policy": "p1", "votes": []}),
            datetime.now(UTC),
        )
        signed = signed_headers(key, "msg_1", at, body)
        with httpx.Client(transport=httpx.HTTPTransport(retries=10)) as client:
            answers = [
                client.post(f"http://127.0.0.1:{port}", content=body, headers=headers).status_code
                for headers in (signed, signed, {**signed, "webhook-id": "msg_2"})
            ]
        receiver.terminate()
        assert receiver.stdout is not None
        assert receiver.stdout.read() == "vote.live {'policy': 'p1', 'votes': []}\n"
    assert answers == [204, 204, 400]


def test_the_commands_beside_the_database(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEARKEN_DATABASE_URL", database_url)
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        done = CliRunner().invoke(app, ["webhooks", *words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    added = json.loads(run("add", "https://example.com/hook", "--event", "vote.live", "--json"))
    assert added["secret"].startswith("whsec_")
    assert "vote.live  well" in run("list")
    assert run("deliveries", added["id"]) == ""
    assert run("replay", added["id"], "--since", "2026-01-01") == "0 deliveries are sent again.\n"
    run("enable", added["id"])
    run("remove", added["id"])
    assert run("list") == ""
