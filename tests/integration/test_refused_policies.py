"""Policies that are damaged, or are not what their manifests say, never serve; what an operator can do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from schemas.policies import BASE, CONFIG, MANIFEST, WEIGHTS, Probe, file_digest
from serving.engine import EngineClient
from tests.policy_loading import Serving
from tests.published import POLICY
from tests.service import PUBLIC, Service, policy_of_adapter, run_api
from tests.swapping import ASK, copy, followed, go_live, hearken, lie, resident, tamper


def truncate(directory: Path) -> None:
    weights = (directory / WEIGHTS).read_bytes()
    (directory / WEIGHTS).write_bytes(weights[: len(weights) // 2])


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


def test_policies_wait_while_their_folder_is_away(
    swapping: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_live(swapping, "p1-aaaaaa", seed=1)
    swapping.registry.publish("p2-bbbbbb", seed=2, parent="p1-aaaaaa", state="retired")
    folder = swapping.settings.policies_dir / "default"
    # If the folder were there, what is missing in it would be rejected at the first look.
    monkeypatch.setattr("serving.policy_loader.MISSING_SECONDS", 0.0)
    folder.rename(tmp_path / "away")
    swapping.rows("update policies set state = 'published' where id = 'p2-bbbbbb' returning 1")
    with run_api(swapping.settings) as (url, services), httpx.Client(base_url=url) as client:
        followed(swapping)
        swapping.until(lambda: services.fleet.healthy)
        followed(swapping, services)
        assert client.get("/readyz").status_code == 503
        assert swapping.chat(max_tokens=1)["system_fingerprint"] == "p1-aaaaaa"
        assert [swapping.registry.state(policy)[0] for policy in ("p0", "p1-aaaaaa", "p2-bbbbbb")] == [
            "retired", "live", "published",
        ]  # fmt: skip
        monkeypatch.setattr("serving.policy_loader.MISSING_SECONDS", 60.0)
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


def test_what_the_gate_refused_serves_nobody_until_an_operator_says_why(swapping: Service) -> None:
    swapping.registry.publish("p1-aaaaaa", seed=1, state="rejected", outcome="refused")
    swapping.rows("insert into refused_candidates values ('default', 'p1-aaaaaa', '{}') returning 1")
    followed(swapping)
    assert swapping.chat(max_tokens=1)["system_fingerprint"] == "p0"
    refused = hearken(swapping, "promote", "p1-aaaaaa")
    assert (refused.returncode, "say why" in refused.stderr) == (1, True)
    with swapping.client() as client:
        asked = {"action": "promote", "policy": "p1-aaaaaa"}
        assert client.get("/v1/console/rollouts/preview", params=asked).json()["needs_reason"]
        because = {"reason": "the list is wrong"}
        assert client.post("/v1/policies/p1-aaaaaa/promote", json=because).json()["state"] == "live"
        told = client.get("/v1/console/policies/p1-aaaaaa").json()["headline"]
    assert told == "The gate refused it, and an operator lets it answer all the same."
    assert swapping.chat(max_tokens=1)["system_fingerprint"] == "p1-aaaaaa"
    [(actor,)] = swapping.rows(
        "select actor from audit_log where action = 'policy.changed' and details #>> '{reason,to}' = %s",
        because["reason"],
    )
    assert actor.startswith("key:")


def test_a_policy_whose_probe_does_not_match_is_rejected(swapping: Service) -> None:
    lie(swapping, "p2-bbbbbb")
    swapping.until(lambda: swapping.registry.state("p2-bbbbbb") == ("rejected", "probe"))
    swapping.until(lambda: resident(swapping) == {"p0"})
    assert swapping.live() == "p0"


def test_a_policy_that_engines_fail_with_is_rejected_and_holds_up_no_other(
    swapping: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.policy_loader.MISSING_SECONDS", 0.5)
    beyond = Probe(token_ids=[9_999_999] * 12, logprobs=[-1.0] * 11, base_logprobs=[-5.0] * 11)
    swapping.registry.announce("p1-aaaaaa", copy(swapping, "p1-aaaaaa"), parent="p0", probe=beyond)
    swapping.registry.publish("p2-bbbbbb", seed=2, parent="p0")
    swapping.until(lambda: swapping.registry.state("p1-aaaaaa") == ("rejected", "engine_error"))
    swapping.until(lambda: swapping.registry.state("p2-bbbbbb")[0] == "live")


def test_a_policy_whose_check_never_ends_is_rejected_and_holds_up_no_other(
    swapping: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.policy_loader.MISSING_SECONDS", 0.5)
    probe = EngineClient.probe

    async def out_of_time(engine: EngineClient, adapter: str, *rest: Any) -> list[float]:
        if policy_of_adapter(adapter) == "p1-aaaaaa":
            raise TimeoutError
        return await probe(engine, adapter, *rest)

    monkeypatch.setattr(EngineClient, "probe", out_of_time)
    swapping.registry.publish("p1-aaaaaa", seed=1)
    swapping.registry.publish("p2-bbbbbb", seed=2, parent="p0")
    swapping.until(lambda: swapping.registry.state("p1-aaaaaa") == ("rejected", "timeout"))
    swapping.until(lambda: swapping.registry.state("p2-bbbbbb")[0] == "live")


async def test_a_policy_that_ends_its_engine_is_rejected_after_three_attempts(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def attempt() -> bool:
        """Returns whether the engine, which is up, is down after the registry was followed."""
        serving.engine.down = False
        await serving.fleet.health_check()
        await serving.swap.reconcile()
        return serving.engine.down

    serving.engine.fatal = POLICY
    await serving.register(serving.policy)
    assert await attempt()
    assert not await attempt(), "the next attempt is later"
    monkeypatch.setattr("serving.policy_loader.PAUSE_SECONDS", 0.0)
    assert await attempt()
    assert await serving.state() == ("published", None)
    assert await attempt()
    assert await serving.state() == ("rejected", "engine_down")
    assert not await attempt()
    assert serving.fleet.serves(BASE)


async def test_engines_that_restart_for_other_reasons_condemn_no_policy(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.policy_loader.PAUSE_SECONDS", 0.0)
    for _ in range(4):
        await serving.register(serving.policy, state="retired")
        serving.engine.down = False
        await serving.fleet.health_check()
        await serving.swap.reconcile()
        await serving.register(serving.policy)
        serving.engine.down = True  # which nobody has noticed yet
        await serving.swap.reconcile()
        assert await serving.state() == ("published", None)
    serving.engine.down = False
    await serving.fleet.health_check()
    await serving.swap.reconcile()
    assert await serving.live() == POLICY


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
