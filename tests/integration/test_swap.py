"""The swap promotes policies and rolls them back while people chat."""

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any, LiteralString

import httpx
import psycopg
import pytest
from psycopg.errors import QueryCanceled
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from websockets.sync.client import connect

from deploy import promotion
from schemas.errors import EngineError, Unavailable
from schemas.policies import BASE, CONFIG
from serving import rollout
from serving.engine import EngineClient
from serving.policy_loader import is_there
from serving.rollout_evidence import Rollout
from serving.router import Route, fetch_routes
from tests.policy_loading import Serving
from tests.published import OTHER, POLICY, Published
from tests.service import ADMIN, Service, events, policy_of_adapter, run_api
from tests.swapping import (
    ASK,
    LIE,
    SHOP,
    another_project,
    copy,
    followed,
    go_live,
    hearken,
    lie,
    resident,
    roll_back,
    tamper,
)


def test_a_published_policy_answers_and_the_previous_ones_stay_loaded(
    swapping: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_live(swapping, "p1-aaaaaa", seed=1)
    go_live(swapping, "p2-bbbbbb", seed=2, parent="p1-aaaaaa")
    go_live(swapping, "p3-cccccc", seed=3, parent="p2-bbbbbb")
    swapping.until(lambda: resident(swapping) == {"p0", "p2-bbbbbb", "p3-cccccc"})

    def replies(policy: str) -> float:
        return swapping.counted("hearken_replies_total", policy=policy, project="default")

    assert replies("p1-aaaaaa") == 0, "it is not in the route any more"
    assert replies("p2-bbbbbb") > 0
    assert swapping.registry.state("p3-cccccc") == ("live", None)
    assert swapping.registry.state("p2-bbbbbb") == ("retired", None)
    assert swapping.rows("select policy, replaces, kind, state from rollouts order by started_at") == [
        ("p1-aaaaaa", "p0", "direct", "promoted"),
        ("p2-bbbbbb", "p1-aaaaaa", "direct", "promoted"),
        ("p3-cccccc", "p2-bbbbbb", "direct", "promoted"),
    ]
    with swapping.client() as client:
        lineage = client.get("/v1/policies/p3-cccccc").json()["lineage"]
        monkeypatch.setattr("serving.admin.MOST_ANCESTORS", 2)
        newest = client.get("/v1/policies/p3-cccccc").json()["lineage"]
        states = {policy["id"]: policy["state"] for policy in client.get("/v1/policies").json()["data"]}
    assert lineage == [*newest, "p0"] == ["p3-cccccc", "p2-bbbbbb", "p1-aaaaaa", "p0"]
    assert states["p0"] == "retired"


async def test_a_rollback_takes_effect_on_the_next_request(swapping: Service) -> None:
    go_live(swapping, "p1-aaaaaa", seed=1)
    go_live(swapping, "p2-bbbbbb", seed=2, parent="p1-aaaaaa")
    with swapping.client() as client:
        newest = client.get("/v1/rollouts").json()["data"][0]
        taken = client.post(f"/v1/rollouts/{newest['id']}/rollback", json={"reason": "rude"}).json()
    assert swapping.chat()["system_fingerprint"] == "p1-aaaaaa"
    assert (taken["state"], taken["reason"]) == ("rolled_back", "rude")
    assert swapping.registry.state("p2-bbbbbb") == ("rolled_back", "rude")
    assert swapping.rows("select live, previous from routes") == [("p1-aaaaaa", "p0")]
    await roll_back(swapping)  # as `hearken rollback` does, from another process
    swapping.until(lambda: swapping.chat(max_tokens=1)["system_fingerprint"] == "p0", seconds=5)
    with swapping.client() as client:
        again = client.post(f"/v1/rollouts/{newest['id']}/rollback")
    assert again.status_code == 409


async def test_a_child_of_a_rolled_back_policy_is_rejected(swapping: Service) -> None:
    go_live(swapping, "p1-aaaaaa", seed=1)
    await roll_back(swapping)
    swapping.registry.publish("p2-bbbbbb", parent="p1-aaaaaa", seed=2)
    swapping.until(lambda: swapping.registry.state("p2-bbbbbb") == ("rejected", "parent_rolled_back"))
    assert swapping.live() == "p0"


def change(service: Service, statement: LiteralString) -> None:
    with psycopg.connect(service.settings.database_url or "") as connection:
        connection.execute(statement)


def test_an_older_route_changes_nothing(swapping: Service) -> None:
    """It may come from a registry read before the swap."""
    go_live(swapping, "p1-aaaaaa", seed=1)
    older = swapping.services.router.find("default")
    go_live(swapping, "p2-bbbbbb", seed=2, parent="p1-aaaaaa")
    swaps = swapping.counted("hearken_policy_swaps_total", project="default")
    swapping.services.swap.use_route(older)
    assert swapping.chat(max_tokens=1)["system_fingerprint"] == "p2-bbbbbb"
    assert swapping.counted("hearken_policy_swaps_total", project="default") == swaps
    assert swapping.counted("hearken_live_policy", policy="p2-bbbbbb", project="default") == 1
    assert swapping.counted("hearken_live_policy", policy="p1-aaaaaa", project="default") == 0


def test_the_swap_survives_an_unexpected_error(swapping: Service) -> None:
    change(swapping, "alter table routes rename to mislaid")
    swapping.rows("select pg_notify('hearken_routes', 'default')")
    time.sleep(0.5)
    change(swapping, "alter table mislaid rename to routes")
    go_live(swapping, "p1-aaaaaa", seed=1)
    assert httpx.get(f"{swapping.url}/healthz").status_code == 200


def test_a_background_task_that_ended_fails_the_health_check(swapping: Service) -> None:
    swapping.chat(max_tokens=1)
    change(swapping, "alter table rate_limit_usage rename to mislaid")
    swapping.chat(max_tokens=1)
    swapping.until(lambda: httpx.get(f"{swapping.url}/healthz").status_code == 503)
    assert httpx.get(f"{swapping.url}/healthz").json() == {"status": "failed", "ended": ["limiter"]}


@pytest.mark.parametrize("swapping", ["direct", "manual"], indirect=True)
def test_the_command_line_promotes_what_the_engines_have_verified(swapping: Service) -> None:
    swapping.registry.publish("p1-aaaaaa", seed=1, state="retired")
    assert hearken(swapping, "promote", "p1-aaaaaa").stdout == "p1-aaaaaa is live.\n"
    assert swapping.chat(max_tokens=1)["system_fingerprint"] == "p1-aaaaaa"
    assert hearken(swapping, "promote", "p1-aaaaaa").stderr == "hearken: p1-aaaaaa is live already.\n"

    lie(swapping, "p2-bbbbbb", state="retired")
    refused = hearken(swapping, "promote", "p2-bbbbbb")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "hearken: p2-bbbbbb was refused (probe). See the log of serving.\n"
    assert swapping.registry.state("p2-bbbbbb") == ("retired", "probe")
    assert swapping.rows("select live_at from policies where id = 'p2-bbbbbb'") == [(None,)]
    assert swapping.chat(max_tokens=1)["system_fingerprint"] == "p1-aaaaaa"


def test_a_policy_that_failed_to_load_may_be_requested_again(swapping: Service) -> None:
    directory = copy(swapping, "p2-bbbbbb")
    config = (directory / CONFIG).read_text()
    (directory / CONFIG).write_text(config.replace("q_proj", "c_attn"))
    swapping.registry.announce("p2-bbbbbb", directory, parent="p0", probe=LIE, state="retired")
    refused = hearken(swapping, "promote", "p2-bbbbbb")
    assert refused.stderr == "hearken: p2-bbbbbb was refused (load). See the log of serving.\n"
    assert swapping.registry.state("p2-bbbbbb") == ("retired", "load")
    assert swapping.live() == "p0"


async def test_a_request_to_promote_expires(database_url: str) -> None:
    """No serving process is there to take it."""
    async with await psycopg.AsyncConnection.connect(
        database_url, row_factory=dict_row, autocommit=True
    ) as connection:
        for policy in ("p0", "p1-aaaaaa"):
            await connection.execute(
                "insert into policies (project, id, base_digest, directory, digest, manifest, state)"
                " values ('default', %s, '', '', '', '{}', 'retired')",
                [policy],
            )
        await connection.execute(
            "insert into routes (project, live, previous) values ('default', 'p0', 'p0')"
        )
        with pytest.raises(Unavailable, match="request is cancelled"):
            await promotion.promote(connection, "default", "p1-aaaaaa", seconds=0.2)
        [route] = await fetch_routes(connection)
        cursor = await connection.execute("select from policies where asked_at is not null")
        assert (route.live, cursor.rowcount) == ("p0", 0)


def test_tainted_policies_leave_the_route_and_what_was_rebuilt_takes_their_place(
    swapping: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def route() -> tuple[Any, ...]:
        return swapping.rows("select live, previous, canary from routes")[0]

    def taint(*policies: str) -> None:
        swapping.rows("update policies set tainted_at = now() where id = any(%s) returning 1", list(policies))

    go_live(swapping, "p1-aaaaaa", seed=1)
    go_live(swapping, "p2-bbbbbb", seed=2, parent="p1-aaaaaa")
    go_live(swapping, "p3-cccccc", seed=3, parent="p2-bbbbbb")
    taint("p2-bbbbbb", "p3-cccccc")
    swapping.until(lambda: route() == ("p3-cccccc", "p1-aaaaaa", None))  # it goes on until it is rebuilt

    learning = "update projects set learning = %s where id = 'default' returning 1"
    swapping.rows(learning, Jsonb({"tainted_policy": "keep"}))
    monkeypatch.setattr(swapping.settings.serving, "tainted_policy", "replace")
    followed(swapping)
    assert route() == ("p3-cccccc", "p1-aaaaaa", None)  # the project says so
    swapping.rows(learning, Jsonb({}))
    swapping.until(lambda: route() == ("p1-aaaaaa", "p0", None))
    swapping.until(lambda: swapping.chat(max_tokens=1)["system_fingerprint"] == "p1-aaaaaa")
    swapping.registry.publish("p4-dddddd", seed=4, parent="p1-aaaaaa", state="retired")
    swapping.rows("update policies set asked_at = now() where id = 'p4-dddddd' returning 1")
    swapping.until(lambda: swapping.chat(max_tokens=1)["system_fingerprint"] == "p4-dddddd")
    assert route() == ("p4-dddddd", "p1-aaaaaa", None)

    tamper(swapping.registry.publish("p5-eeeeee", seed=4, parent="p1-aaaaaa", state="retired"))
    waits = {"database": {}, "exports": {}, "rebuild": {"live": "p5-eeeeee"}}  # for serving alone
    swapping.rows(
        "insert into rounds (project, parent, outcome) values ('default', 'p0', 'failed') returning 1"
    )
    swapping.rows(
        "insert into erasures (id, project, hashes, asked_by, since, steps)"
        " values ('erasure-1', 'default', '{}', 'test', now(), %s) returning 1",
        Jsonb(waits),
    )
    swapping.rows("update policies set asked_at = now() where id = 'p5-eeeeee' returning 1")
    swapping.until(lambda: swapping.registry.state("p5-eeeeee") == ("rejected", "digest"))


def test_no_request_fails_or_mixes_policies_while_policies_change(swapping: Service) -> None:
    """Greedy replies under six swaps and eight streams, each compared with its policy's reply taken alone."""
    replies: list[tuple[str, set[str], str]] = []
    failures: list[str] = []
    ended = threading.Event()

    def talk() -> None:
        with swapping.client() as client:
            while not ended.is_set():
                body = {**ASK, "max_tokens": 24, "temperature": 0, "stream": True}
                with client.stream("POST", "/v1/chat/completions", json=body) as response:
                    if response.status_code != 200:
                        failures.append(response.read().decode())
                        return
                    chunks = list(events(response))
                failures.extend(str(chunk) for chunk in chunks if "error" in chunk)
                text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
                fingerprints = {chunk["system_fingerprint"] for chunk in chunks}
                replies.append((chunks[-1]["hearken"]["policies"][0], fingerprints, text))

    alone = {"p0": swapping.chat(ASK["messages"][0]["content"], max_tokens=24, temperature=0)}
    talkers = [threading.Thread(target=talk) for _ in range(8)]
    for talker in talkers:
        talker.start()
    parent = "p0"
    names = [f"p{number}-{number:06x}" for number in range(1, 7)]
    for seed, policy in enumerate(names, start=1):
        go_live(swapping, policy, parent=parent, seed=seed)
        alone[policy] = swapping.chat(ASK["messages"][0]["content"], max_tokens=24, temperature=0)
        parent = policy
    ended.set()
    for talker in talkers:
        talker.join(30)
    assert failures == []
    assert {policy for policy, _, _ in replies} >= {"p0", *names[:-1]}
    for policy, fingerprints, text in replies:
        assert fingerprints == {policy}
        assert text == alone[policy]["choices"][0]["message"]["content"]
    assert len({one["choices"][0]["message"]["content"] for one in alone.values()}) == 7


def test_two_projects_with_a_policy_of_the_same_name_get_their_own_replies(swapping: Service) -> None:
    """Each project numbers its own policies, so names collide."""
    shop = another_project(swapping)
    shop.publish("p1-aaaaaa", seed=2)
    go_live(swapping, "p1-aaaaaa", seed=1)
    go_live(swapping, "p2-bbbbbb", seed=2, parent="p1-aaaaaa")

    def reply(key: str) -> tuple[str, str]:
        answer = swapping.chat(key=key)
        return answer["system_fingerprint"], answer["choices"][0]["message"]["content"]

    swapping.until(lambda: reply(SHOP)[0] == "p1-aaaaaa")
    theirs = reply(SHOP)[1]
    assert theirs == reply(ADMIN)[1]  # the same weights under another name
    asyncio.run(roll_back(swapping))
    swapping.until(lambda: reply(ADMIN)[0] == "p1-aaaaaa")
    assert reply(ADMIN)[1] != theirs
    assert reply(SHOP) == ("p1-aaaaaa", theirs)


def test_an_adapter_is_checked_once_for_all_processes(
    swapping: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.shared_checks.is_shared", lambda url: True)
    go_live(swapping, "p1-aaaaaa", seed=1)
    checked: list[str] = []
    probe = EngineClient.probe

    async def counted(engine: EngineClient, adapter: str, *rest: Any) -> list[float]:
        checked.append(policy_of_adapter(adapter))
        return await probe(engine, adapter, *rest)

    monkeypatch.setattr(EngineClient, "probe", counted)
    with run_api(swapping.settings) as (_, second):
        swapping.until(lambda: second.fleet.served() == swapping.services.fleet.served())
    assert checked == ["p0"], "it was checked before the checks were shared"


def test_the_websocket_announces_the_live_policy_and_learned_votes(swapping: Service) -> None:
    with connect(swapping.url.replace("http", "ws") + "/v1/live") as socket:
        socket.send(json.dumps({"type": "auth", "key": ADMIN}))
        socket.send(json.dumps({"type": "chat", "id": "a", **ASK, "max_tokens": 2}))
        frames: list[dict[str, Any]] = [json.loads(socket.recv(timeout=10))]
        while frames[-1]["type"] != "done":
            frames.append(json.loads(socket.recv(timeout=10)))
        vote = {"completion_id": frames[-1]["completion"]["id"], "type": "thumb", "value": "up"}
        socket.send(json.dumps({"type": "feedback", "id": "v", "feedback": vote}))
        recorded = json.loads(socket.recv(timeout=10))["feedback"]
        swapping.rows(
            "insert into training_examples (event_id, project, feedback_id, turn_id, type, value, rater,"
            " conversation_id, created_at, first_policy)"
            " select event_id, project, id, turn_id, type, value, rater, 'c', now(), 'p1-aaaaaa'"
            " from feedback where id = %s returning 1",
            recorded["id"],
        )
        swapping.registry.publish("p1-aaaaaa", seed=1)
        policy, learned = (json.loads(socket.recv(timeout=10)) for _ in range(2))
    assert policy == {"type": "policy", "policy": "p1-aaaaaa", "previous": "p0"}
    assert learned["type"] == "learned"
    assert (learned["feedback_id"], learned["policy"]) == (recorded["id"], "p1-aaaaaa")
    assert learned["live_at"].endswith("Z")


async def test_a_candidate_whose_engine_fails_holds_up_nothing_else(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails, probe = True, EngineClient.probe

    async def failing(engine: EngineClient, *rest: Any) -> list[float]:
        if fails:
            raise EngineError("out of memory", url=engine.url, status=500)
        return await probe(engine, *rest)

    monkeypatch.setattr(EngineClient, "probe", failing)
    await serving.register(serving.policy)
    await serving.swap.reconcile()  # it goes through, for all other projects
    assert await serving.live() == BASE
    fails = False
    await serving.swap.reconcile()
    assert await serving.live() == POLICY


async def test_a_route_answers_once_it_is_committed(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is told of it asks the registry what was learned."""
    used: list[tuple[str, str]] = []

    def use_route(route: Route) -> None:
        with psycopg.connect(serving.settings.database_url or "") as connection:
            row = connection.execute("select live from routes").fetchone()
        assert row is not None
        used.append((route.live, row[0]))

    monkeypatch.setattr(serving.swap, "use_route", use_route)
    await serving.register(serving.policy)
    await serving.swap.reconcile()
    assert used == [(BASE, BASE), (POLICY, POLICY)]


async def test_a_rollback_does_not_wait_for_a_canary_that_no_engine_serves(serving: Serving) -> None:
    await serving.swap.promote("default", POLICY)
    other = Published(serving.policy.directory.with_name(OTHER))
    other.write(id=OTHER)
    await serving.register(other, OTHER, state="retired")
    [replica] = serving.fleet.replicas
    before = set(replica.verified)
    await serving.swap.start_canary("default", OTHER, 0.5)
    replica.verified &= before
    async with serving.pool.connection() as connection:
        route = await rollout.rollback(connection, "default", "rude")
    assert (route.live, route.canary) == (BASE, OTHER)
    assert serving.swap.use_route(route)
    serving.swap._router._routes.clear()  # as after a start
    assert serving.swap.use_route(route)


async def test_a_rollout_whose_evidence_takes_too_long_holds_up_no_other(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def evaluate(connection: object, found: Rollout, settings: object) -> None:
        asked.append(found.id)
        raise QueryCanceled("canceling statement due to statement timeout")

    monkeypatch.setattr("serving.rollout_controller.evaluate", evaluate)
    async with serving.pool.connection() as connection:
        for name in ("one", "two"):
            await connection.execute(
                "insert into rollouts (id, project, policy, replaces, kind, share, state, evaluate_after)"
                " values (%s, 'default', %s, 'p0', 'direct', 1, 'promoted', now())",
                [name, POLICY],
            )
    await serving.swap.trials.decide()
    assert sorted(asked) == ["one", "two"]


async def test_files_that_cannot_be_read_here_condemn_no_policy(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("serving.policy_files.verify", unreadable)
    await serving.register(serving.policy)
    await serving.swap.reconcile()
    async with serving.pool.connection() as connection:
        cursor = await connection.execute("select state from policies where id = %s", [POLICY])
        assert await cursor.fetchone() == {"state": "published"}


def test_a_mount_that_answers_with_an_error_has_no_files() -> None:
    assert is_there(Path(__file__))
    assert not is_there(Path("x" * 5_000))
