"""The swap promotes, rolls back and rejects policies while people chat."""

import asyncio
import json
import os
import subprocess
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, LiteralString

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row
from websockets.sync.client import connect

from deploy import promotion
from schemas.errors import EngineError, Unavailable
from schemas.policies import BASE, CONFIG, MANIFEST, WEIGHTS, Probe, file_digest
from serving import rollout
from serving.engine import EngineClient
from serving.router import fetch_routes
from tests.conftest import new_database
from tests.installation import Installation
from tests.service import (
    ADMIN,
    PROBE,
    PUBLIC,
    Registry,
    Service,
    events,
    make_keys,
    policy_of_adapter,
    run_api,
    run_service,
)

SHOP = "sk-hearken-shop-0123456789"  # the admin key of another project
ASK = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}


@pytest.fixture
def swapping(
    request: pytest.FixtureRequest,
    postgres_url: str,
    engine: str,
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Service]:
    """A service of the test's own, with p0 live, over an engine that starts empty. Unused policies are
    unloaded soon. Its parameter is how policies are promoted."""
    promotion = getattr(request, "param", "direct")
    monkeypatch.setattr("serving.fleet._UNLOAD_DELAY", 0.5)
    monkeypatch.setattr("serving.policy_loader.DAMAGED_SECONDS", 0.5)
    monkeypatch.setattr("serving.policy_loader.MISSING_SECONDS", 1.5)
    monkeypatch.setattr("serving.rollout_controller.INTERVAL", 0.5)
    monkeypatch.setattr("serving.rollout_evidence.GRACE", timedelta())
    with (
        new_database(postgres_url) as url,
        run_service(url, tmp_path, tiny_base, engines=[engine], promotion=promotion) as service,
    ):
        yield service
        service.until(lambda: service.counted("hearken_requests_in_flight") == 0)
    with httpx.Client(base_url=engine) as client:
        for card in client.get("/v1/models").json()["data"]:
            client.post("/v1/unload_lora_adapter", json={"lora_name": card["id"]})


def resident(service: Service) -> set[str]:
    cards = httpx.get(f"{service.settings.vllm.urls[0]}/v1/models").json()["data"]
    return {policy_of_adapter(card["id"]) for card in cards}


def go_live(service: Service, policy: str, **given: Any) -> None:
    service.registry.publish(policy, **given)
    service.until(lambda: service.chat(max_tokens=1)["system_fingerprint"] == policy)


async def roll_back(service: Service) -> None:
    async with await psycopg.AsyncConnection.connect(
        service.settings.database_url or "", row_factory=dict_row
    ) as connection:
        await rollout.rollback(connection, "default", "it was rude")


def test_a_published_policy_answers_and_the_previous_ones_stay_loaded(swapping: Service) -> None:
    go_live(swapping, "p1-aaaaaa", seed=1)
    go_live(swapping, "p2-bbbbbb", seed=2, parent="p1-aaaaaa")
    go_live(swapping, "p3-cccccc", seed=3, parent="p2-bbbbbb")
    swapping.until(lambda: resident(swapping) == {"p0", "p2-bbbbbb", "p3-cccccc"})
    assert swapping.registry.state("p3-cccccc") == ("live", None)
    assert swapping.registry.state("p2-bbbbbb") == ("retired", None)
    assert swapping.rows("select policy, replaces, kind, state from rollouts order by started_at") == [
        ("p1-aaaaaa", "p0", "direct", "promoted"),
        ("p2-bbbbbb", "p1-aaaaaa", "direct", "promoted"),
        ("p3-cccccc", "p2-bbbbbb", "direct", "promoted"),
    ]
    with swapping.client() as client:
        lineage = client.get("/v1/policies/p3-cccccc").json()["lineage"]
        states = {policy["id"]: policy["state"] for policy in client.get("/v1/policies").json()["data"]}
    assert lineage == ["p3-cccccc", "p2-bbbbbb", "p1-aaaaaa", "p0"]
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


def hearken(service: Service, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HEARKEN_DATABASE_URL": service.settings.database_url or ""}
    return subprocess.run(
        Installation.hearken(*words), env=environment, capture_output=True, text=True, timeout=60, check=False
    )


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


def truncate(directory: Path) -> None:
    weights = (directory / WEIGHTS).read_bytes()
    (directory / WEIGHTS).write_bytes(weights[: len(weights) // 2])


def tamper(directory: Path) -> None:
    weights = bytearray((directory / WEIGHTS).read_bytes())
    weights[-3] ^= 1
    (directory / WEIGHTS).write_bytes(weights)


def hide_a_pickle(directory: Path) -> None:
    (directory / "extra.bin").write_bytes(b"cos\nsystem\n")


def change_the_manifest(directory: Path) -> None:
    manifest = json.loads((directory / MANIFEST).read_text())
    (directory / MANIFEST).write_text(json.dumps({**manifest, "base_digest": "0" * 64}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "truncated"),
        (tamper, "digest"),
        (hide_a_pickle, "pickle"),
        (change_the_manifest, "digest"),
        (lambda directory: (directory / CONFIG).unlink(), "missing"),
    ],
)
def test_a_damaged_directory_never_serves(
    swapping: Service, damage: Callable[[Path], None], reason: str
) -> None:
    directory = swapping.registry.publish("p1-aaaaaa", seed=1, state="retired")
    damage(directory)
    swapping.rows("update policies set state = 'published' where id = 'p1-aaaaaa' returning 1")
    swapping.until(lambda: swapping.registry.state("p1-aaaaaa") == ("rejected", reason))
    assert swapping.chat()["system_fingerprint"] == "p0"
    assert swapping.counted("hearken_policies_rejected_total", reason=reason) == 1


def test_policies_wait_while_their_folder_is_away(swapping: Service, tmp_path: Path) -> None:
    go_live(swapping, "p1-aaaaaa", seed=1)
    swapping.registry.publish("p2-bbbbbb", seed=2, parent="p1-aaaaaa", state="retired")
    folder = swapping.settings.policies_dir / "default"
    folder.rename(tmp_path / "away")
    swapping.rows("update policies set state = 'published' where id = 'p2-bbbbbb' returning 1")
    with run_api(swapping.settings) as (url, _), httpx.Client(base_url=url) as client:
        time.sleep(3)  # twice as long as what is missing is waited for
        assert client.get("/readyz").status_code == 503
        assert swapping.chat(max_tokens=1)["system_fingerprint"] == "p1-aaaaaa"
        assert [swapping.registry.state(policy)[0] for policy in ("p0", "p1-aaaaaa", "p2-bbbbbb")] == [
            "retired", "live", "published",
        ]  # fmt: skip
        (tmp_path / "away").rename(folder)
        swapping.until(lambda: client.get("/readyz").status_code == 200)
    swapping.until(lambda: swapping.registry.state("p2-bbbbbb")[0] == "live")


def test_an_operator_takes_a_rejection_and_a_rollback_back(swapping: Service) -> None:
    directory = swapping.registry.publish("p1-aaaaaa", seed=1, state="retired")
    weights = (directory / WEIGHTS).read_bytes()
    tamper(directory)
    swapping.rows("update policies set state = 'published' where id = 'p1-aaaaaa' returning 1")
    swapping.until(lambda: swapping.registry.state("p1-aaaaaa") == ("rejected", "digest"))
    (directory / WEIGHTS).write_bytes(weights)
    assert hearken(swapping, "promote", "p1-aaaaaa").returncode == 1
    assert hearken(swapping, "reinstate", "p1-aaaaaa", "--reason", "the disk is whole").returncode == 0
    assert swapping.registry.state("p1-aaaaaa") == ("retired", "the disk is whole (was rejected)")
    assert hearken(swapping, "promote", "p1-aaaaaa").returncode == 0
    assert hearken(swapping, "rollback").returncode == 0
    with swapping.client() as client:
        again = client.post("/v1/policies/p1-aaaaaa/reinstate", json={"reason": "a mistake"})
        assert (again.status_code, again.json()["state"]) == (200, "retired")
        twice = client.post("/v1/policies/p1-aaaaaa/reinstate")
        assert (twice.status_code, twice.json()["error"]["code"]) == (409, "conflict")
        assert client.post("/v1/policies/p7-eeeeee/reinstate").status_code == 404
    assert hearken(swapping, "promote", "p1-aaaaaa").stdout == "p1-aaaaaa is live.\n"


LIE = Probe(token_ids=PROBE, logprobs=[-1.0] * 11, base_logprobs=[-5.0] * 11)


def copy(service: Service, policy: str) -> Path:
    """The directory of a policy that is not announced yet, with another's files."""
    directory = service.registry.publish("p9-ffffff", seed=1, state="retired")
    target = directory.with_name(policy)
    target.mkdir()
    for name in (WEIGHTS, CONFIG):
        (target / name).write_bytes((directory / name).read_bytes())
    return target


def lie(service: Service, policy: str, state: str = "published") -> None:
    """Announce a policy whose manifest does not match its weights."""
    service.registry.announce(policy, copy(service, policy), parent="p0", probe=LIE, state=state)


def test_a_policy_whose_probe_does_not_match_is_rejected(swapping: Service) -> None:
    lie(swapping, "p2-bbbbbb")
    swapping.until(lambda: swapping.registry.state("p2-bbbbbb") == ("rejected", "probe"))
    swapping.until(lambda: resident(swapping) == {"p0"})
    assert swapping.live() == "p0"


def test_a_policy_that_cannot_be_served_is_counted(swapping: Service) -> None:
    directory = swapping.registry.publish("p1-aaaaaa", seed=1, state="retired")
    manifest = json.loads((directory / MANIFEST).read_text()) | {"base_digest": "of another base"}
    (directory / MANIFEST).write_text(json.dumps(manifest))
    digest = file_digest(directory / MANIFEST)
    swapping.rows("update policies set digest = %s where id = 'p1-aaaaaa' returning 1", digest)
    assert swapping.counted("hearken_policies_unserved") == 0
    swapping.rows("update routes set live = 'p1-aaaaaa', version = version + 1 returning 1")
    swapping.until(lambda: swapping.counted("hearken_policies_unserved") == 1)
    assert swapping.chat()["system_fingerprint"] == "p0"
    swapping.rows("update routes set live = 'p0', version = version + 1 returning 1")
    swapping.until(lambda: swapping.counted("hearken_policies_unserved") == 0)


def test_a_start_with_a_damaged_live_policy_falls_back_to_its_ancestor(swapping: Service) -> None:
    go_live(swapping, "p1-aaaaaa", seed=1)
    go_live(swapping, "p2-bbbbbb", seed=2, parent="p1-aaaaaa")
    tamper(swapping.settings.policies_dir / "default" / "p2-bbbbbb")
    with run_api(swapping.settings) as (url, _), httpx.Client(base_url=url) as client:
        swapping.until(lambda: client.get("/readyz").status_code == 200)
        answer = client.post(
            "/v1/chat/completions",
            json={**ASK, "max_tokens": 2},
            headers={"Authorization": f"Bearer {PUBLIC}"},
        )
        assert answer.json()["system_fingerprint"] == "p1-aaaaaa"
    assert swapping.registry.state("p2-bbbbbb") == ("rejected", "digest")
    swapping.until(lambda: swapping.chat(max_tokens=1)["system_fingerprint"] == "p1-aaaaaa")


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

    monkeypatch.setattr(swapping.settings.serving, "tainted_policy", "replace")
    swapping.until(lambda: route() == ("p1-aaaaaa", "p0", None))
    swapping.until(lambda: swapping.chat(max_tokens=1)["system_fingerprint"] == "p1-aaaaaa")
    swapping.registry.publish("p4-dddddd", seed=4, parent="p1-aaaaaa", state="retired")
    swapping.rows("update policies set asked_at = now() where id = 'p4-dddddd' returning 1")
    swapping.until(lambda: swapping.chat(max_tokens=1)["system_fingerprint"] == "p4-dddddd")
    assert route() == ("p4-dddddd", "p1-aaaaaa", None)


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
        swapping.registry.publish(policy, parent=parent, seed=seed)
        swapping.until(lambda policy=policy: swapping.live() == policy)  # type: ignore[misc]
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


def test_a_canary_answers_its_share_until_it_is_promoted(swapping: Service) -> None:
    swapping.registry.publish("p1-aaaaaa", seed=1, state="retired")
    with swapping.client() as client:
        created = client.post("/v1/rollouts", json={"policy": "p1-aaaaaa", "share": 0.5})
        assert created.status_code == 201
        rollout_id = created.json()["id"]
        policies = [swapping.chat(max_tokens=1)["system_fingerprint"] for _ in range(24)]
        assert set(policies) == {"p0", "p1-aaaaaa"}
        [(propensity,)] = swapping.rows("select distinct propensity from replies where policy = 'p1-aaaaaa'")
        assert propensity == 0.5
        assert client.post("/v1/rollouts", json={"policy": "p0", "share": 0.5}).status_code == 409
        promoted = client.post(f"/v1/rollouts/{rollout_id}/promote").json()
    assert promoted["state"] == "promoted"
    assert {swapping.chat(max_tokens=1)["system_fingerprint"] for _ in range(8)} == {"p1-aaaaaa"}


def people_like_p1(service: Service, key: str = ADMIN) -> None:
    """Lets people vote until sixteen have liked the canary p1 and the others disliked the base, or until
    fewer have promoted p1 and the next canary answers."""
    liked = {"p0": "down", "p1-aaaaaa": "up"}
    likes = 0
    with service.client(key) as client:
        while likes < 16:
            reply = service.chat(key=key, max_tokens=1)
            value = liked.get(reply["system_fingerprint"])
            if value is None:
                return
            vote = {"completion_id": reply["id"], "type": "thumb", "value": value}
            assert client.post("/v1/feedback", json=vote).status_code == 201
            likes += value == "up"


def test_what_the_gate_could_not_judge_is_tried_and_people_decide(swapping: Service) -> None:
    swapping.registry.publish("p1-aaaaaa", seed=1, outcome="unknown")
    swapping.until(lambda: swapping.registry.state("p1-aaaaaa")[0] == "canary")
    swapping.registry.publish("p2-bbbbbb", seed=2, parent="p1-aaaaaa", outcome="unknown")
    swapping.registry.publish("p3-cccccc", seed=3, parent="p2-bbbbbb", outcome="unknown")
    swapping.until(lambda: swapping.registry.state("p2-bbbbbb")[0] == "retired")
    assert swapping.live() == "p0"
    assert swapping.registry.state("p3-cccccc") == ("published", None)

    people_like_p1(swapping)
    with swapping.client() as client:
        swapping.until(lambda: swapping.live() == "p1-aaaaaa")
        rollouts = client.get("/v1/rollouts").json()["data"]
    assert swapping.registry.state("p1-aaaaaa") == ("live", None)
    promoted = next(each for each in rollouts if each["policy"] == "p1-aaaaaa")
    assert (promoted["state"], promoted["kind"], promoted["automatic"]) == ("promoted", "canary", True)
    assert "people find it better than p0" in promoted["reason"]
    assert promoted["evidence"]["metrics"]["approval"]["difference"] > 0.5
    swapping.until(lambda: swapping.registry.state("p3-cccccc")[0] == "canary")


@pytest.mark.parametrize("swapping", ["duel"], indirect=True)
def test_a_duel_shows_both_policies_blind_and_rankings_promote(swapping: Service) -> None:
    swapping.registry.publish("p1-aaaaaa", seed=1, outcome="passed")
    swapping.until(lambda: swapping.rows("select duel_share from routes") == [(1.0,)])
    swapping.until(lambda: swapping.services.router.route("default").duels)
    assert swapping.chat(max_tokens=1)["hearken"]["policies"] == ["p0"]
    assert swapping.chat(max_tokens=1, n=3)["hearken"]["policies"] == ["p0"] * 3

    alone = {policy: swapping.chat(model=policy)["choices"][0] for policy in ("p0", "p1-aaaaaa")}
    votes = []
    with swapping.client() as operator:
        server = operator.post("/v1/keys", json={"name": "a server", "kind": "secret"}).json()["key"]
    with swapping.client(PUBLIC) as client:
        for number in range(24):
            pair = swapping.chat(key=server, n=2, user=f"visitor {number}")
            assert pair["system_fingerprint"] == "p0+p1-aaaaaa"
            assert pair["hearken"]["policies"] == []
            drawn = swapping.rows(
                "select policy, propensity, seconds > 0 from replies where turn_id = %s order by choice",
                pair["id"],
            )
            assert sorted(drawn) == [("p0", 0.5, True), ("p1-aaaaaa", 0.5, True)]
            texts = [choice["message"]["content"] for choice in pair["choices"]]
            assert texts == [alone[policy]["message"]["content"] for policy, _, _ in drawn]
            best = [policy for policy, _, _ in drawn].index("p1-aaaaaa")
            vote = {
                "completion_id": pair["id"],
                "type": "ranking",
                "ranking": [[best], [1 - best]],
                "feedback_token": pair["hearken"]["feedback_token"],
            }
            votes.append(vote)
        assert len({str(vote["ranking"]) for vote in votes}) == 2  # either may be the first
        assert {client.post("/v1/feedback", json=vote).status_code for vote in votes} == {201}
    swapping.until(lambda: swapping.live() == "p1-aaaaaa")
    with swapping.client() as client:
        newest = client.get("/v1/rollouts").json()["data"][0]
    assert (newest["kind"], newest["state"]) == ("duel", "promoted")
    assert "of the duels of" in newest["reason"]


def test_a_duel_is_streamed_as_both_replies_come(swapping: Service) -> None:
    swapping.registry.publish("p1-aaaaaa", seed=1, state="retired")
    with swapping.client() as client:
        begun = client.post("/v1/rollouts", json={"policy": "p1-aaaaaa", "mode": "duel", "share": 1.0})
        assert begun.status_code == 201
        body = {"model": "default", **ASK, "n": 2, "stream": True, "max_tokens": 6, "temperature": 0}
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            chunks = list(events(response))
        texts = ["", ""]
        for chunk in chunks:
            for choice in chunk["choices"]:
                texts[choice["index"]] += choice["delta"].get("content") or ""
        extension = chunks[-1]["hearken"]
        assert sorted(extension["policies"]) == ["p0", "p1-aaaaaa"]  # an admin sees whose they are
        stored = swapping.rows("select text from replies where turn_id = %s order by choice", chunks[0]["id"])
        assert texts == [text for (text,) in stored]


def test_a_candidate_that_fails_has_no_traffic_within_five_seconds(
    swapping: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapping.registry.publish("p1-aaaaaa", seed=1, outcome="unknown")
    swapping.until(lambda: served_canary(swapping, ADMIN))
    stream = EngineClient.stream

    async def failing(engine: EngineClient, adapter: str, *rest: Any) -> AsyncGenerator[Any]:
        if policy_of_adapter(adapter) == "p1-aaaaaa":
            raise EngineError("out of memory", url=engine.url, status=500)
        async for delta in stream(engine, adapter, *rest):
            yield delta

    monkeypatch.setattr(EngineClient, "stream", failing)
    began = time.monotonic()
    failed = 0
    body = {"model": "default", **ASK, "max_tokens": 1}
    with swapping.client() as client:
        while swapping.services.router.route("default").canary is not None:
            failed += client.post("/v1/chat/completions", json=body).status_code == 503
            assert time.monotonic() - began < 5
        assert 3 <= failed <= 6
        assert [client.post("/v1/chat/completions", json=body).status_code for _ in range(8)] == [200] * 8
        newest = client.get("/v1/rollouts").json()["data"][0]
    assert (newest["state"], newest["actor"]) == ("ended", "hard failure")
    assert newest["reason"].startswith("a hard failure: 3 of its last")
    assert swapping.registry.state("p1-aaaaaa")[0] == "retired"


async def test_a_candidate_goes_with_the_canary_that_it_was_trained_from(swapping: Service) -> None:
    swapping.registry.publish("p1-aaaaaa", seed=1, outcome="unknown")
    swapping.until(lambda: swapping.registry.state("p1-aaaaaa")[0] == "canary")
    for number, name in enumerate(["p2-bbbbbb", "p3-cccccc"], 1):
        parent = ["p1-aaaaaa", "p2-bbbbbb"][number - 1]
        swapping.registry.publish(name, seed=1 + number, parent=parent, outcome="unknown")
    with swapping.client() as client:
        newest = client.get("/v1/rollouts").json()["data"][0]
        assert client.post(f"/v1/rollouts/{newest['id']}/rollback").status_code == 200
    swapping.until(lambda: swapping.registry.state("p3-cccccc")[0] == "rejected")
    assert swapping.registry.state("p3-cccccc")[1] == "parent_rolled_back"
    assert swapping.rows("select live, canary from routes") == [("p0", None)]


def another_project(service: Service) -> Registry:
    """Makes the project `shop`, with p0 live and the admin key SHOP."""
    settings = service.settings.model_copy(
        update={"project": "shop", "admin_key": SHOP, "public_key": f"pk-{SHOP}"}
    )
    asyncio.run(make_keys(settings))
    registry = Registry(settings)
    registry.publish(BASE, parent=None, seed=0, state="live")
    return registry


def test_the_canaries_of_all_projects_are_judged(swapping: Service) -> None:
    for registry in (swapping.registry, another_project(swapping)):
        registry.publish("p1-aaaaaa", seed=1, outcome="unknown")
    canaries = "select count(*) from routes where canary = 'p1-aaaaaa'"
    swapping.until(lambda: swapping.rows(canaries) == [(2,)])
    for key in (ADMIN, SHOP):
        swapping.until(lambda key=key: served_canary(swapping, key))
        people_like_p1(swapping, key)
    live = "select count(*) from routes where live = 'p1-aaaaaa'"
    swapping.until(lambda: swapping.rows(live) == [(2,)])


def served_canary(service: Service, key: str) -> bool:
    """Returns whether the project's canary has answered somebody."""
    return bool(service.chat(key=key, max_tokens=1)["system_fingerprint"] == "p1-aaaaaa")


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


@pytest.mark.parametrize("swapping", ["manual"], indirect=True)
def test_with_manual_promotion_operators_decide(swapping: Service) -> None:
    swapping.registry.publish("p1-aaaaaa", seed=1, outcome="unknown")
    swapping.registry.publish("p2-bbbbbb", seed=2, outcome="unknown")
    time.sleep(2)
    assert swapping.registry.state("p1-aaaaaa") == ("published", None)
    assert swapping.rows("select live, canary from routes") == [("p0", None)]


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
