"""The control room says who answers and why, and what a change would do; the command line says the same."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.conftest import new_database
from tests.installation import Installation
from tests.service import ADMIN, PUBLIC, Service, run_service

P1, P2 = "p1-aaaaaa", "p2-bbbbbb"

GATE = {
    "outcome": "unknown",
    "reasons": [],
    "doubts": ["9 unseen votes do not show that it is no worse than the live policy"],
    "figures": {
        "unseen_votes": 9, "unseen_gain": 0.2, "unseen_error": 0.3, "trained_gain": 0.5, "trained_error": 0.1,
        "length_ratio": 0.8, "kl": 2.5, "kl_error": 0.2, "ended": 0.99, "base_ended": 1.0, "entropy": 1.2,
        "base_entropy": 1.5, "repeated": 0.01, "base_repeated": 0.01, "distinct": 0.5, "base_distinct": 0.6,
        "alike": 0.02, "knowledge": 0.9, "knowledge_lost": 0.05, "knowledge_error": 0.01,
    },
    "checks": {
        "length_ratio": {"found": 0.8, "limit": 1 / 3, "error": 0.02, "state": "good"},
        "knowledge_lost": {"found": 0.05, "limit": 0.02, "error": 0.01, "state": "unknown"},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def control(
    postgres_url: str, engine: str, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service of this module's own, in which p1 and p2 are published and wait for an operator."""
    with (
        new_database(postgres_url) as url,
        run_service(
            url,
            tmp_path_factory.mktemp("control"),
            tiny_base,
            engines=[engine],
            promotion="manual",
            base_share=0.05,
        ) as service,
    ):
        service.registry.publish(P1, seed=1)
        service.registry.publish(P2, parent=P1, seed=2)
        yield service


@pytest.fixture
def client(control: Service) -> Iterator[httpx.Client]:
    with control.client() as client:
        client.base_url = f"{control.url}/v1/"
        yield client


def hearken(service: Service, *words: str, code: int = 0) -> str:
    """Runs a command against the service from elsewhere, with the key in its environment."""
    ended = subprocess.run(
        [*Installation.hearken(*words), "--url", service.url],
        env={"HEARKEN_ADMIN_KEY": ADMIN, "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert ended.returncode == code, ended.stderr
    return ended.stdout if code == 0 else ended.stderr


def test_a_preview_says_what_then_happens_and_changes_nothing(control: Service, client: httpx.Client) -> None:
    asked = {"action": "promote", "policy": P1}
    shown = client.get("console/rollouts/preview", params=asked).json()
    assert shown["then"][0] == {"policy": P1, "share": 0.95, "role": "live"}
    assert {"policy": P1, "from": "published", "to": "live"} in shown["changes"]
    assert "p0 answers again" in shown["way_back"]
    assert control.live() == "p0"
    assert client.post(f"policies/{P1}/promote").json()["state"] == "live"
    status = client.get("console/status").json()
    assert status["answering"]["shares"] == shown["then"]
    assert status["answering"]["why"] == "An operator promoted it."

    asked = {"action": "start", "policy": P2, "share": "0.2"}
    assert client.get("console/rollouts/preview", params=asked).json()["then"][1] == {
        "policy": P2, "share": 0.2, "role": "canary",
    }  # fmt: skip
    output = hearken(control, "rollout", "start", P2, "--share", "0.2", "--yes")
    assert "The way back" in output
    assert client.get("console/status").json()["canary"]["policy"] == P2
    control.until(lambda: client.get("console/rollouts").json()["data"][0]["evidence"] is not None)
    [newest, *_] = client.get("console/rollouts").json()["data"]
    assert newest["evidence"]["words"].startswith("An operator began it, and ends it. 0 people")
    assert (newest["kind"], newest["automatic"], newest["actor"]) == ("canary", False, "key:default-admin")
    shown = hearken(control, "rollout", "show")
    assert "they decide from 10 people on each side on" in shown
    assert "Recorded votes did not tell what to expect of it." in shown

    refused = hearken(control, "rollout", "rollback", P2, code=1)
    assert "--yes" in refused
    assert client.get("console/status").json()["canary"] is not None
    assert "rolled back" in hearken(control, "rollout", "rollback", P2, "--reason", "rude", "--yes")
    assert client.get(f"policies/{P2}").json()["reason"] == "rude"
    assert client.post(f"policies/{P2}/reinstate").json()["state"] == "retired"  # the way back

    taken = client.get("console/rollouts/preview", params={"action": "rollback"}).json()
    assert taken["then"] == [{"policy": "p0", "share": 1.0, "role": "live"}]
    assert client.post(f"policies/{P1}/rollback").json()["state"] == "rolled_back"
    assert client.get("console/rollouts/preview", params=asked | {"action": "promote", "policy": P1}).json()[
        "needs_reason"
    ]
    assert client.post(f"policies/{P1}/promote").status_code == 409
    brought_back = client.post(f"policies/{P1}/promote", json={"reason": "it was the prompt"})
    assert brought_back.json()["state"] == "live"
    assert client.get("rollouts").json()["data"][0]["reason"] == "it was the prompt"
    assert "rolled back" in hearken(control, "rollout", "rollback", "--yes")
    assert client.get("console/rollouts/preview", params={"action": "rollback"}).status_code == 409
    children = client.get("console/rollouts/preview", params={"action": "promote", "policy": P2})
    assert children.json()["error"]["code"] == "policy_parent_rolled_back"


def test_a_round_is_told_in_words_with_the_texts_of_its_votes(control: Service, client: httpx.Client) -> None:
    reply = control.chat("What is Lutetia?")
    said = {"completion_id": reply["id"], "type": "thumb", "value": "up", "comment": "well put"}
    vote = client.post("feedback", json=said).json()["id"]
    [(event,)] = control.rows("select event_id from feedback where id = %s", vote)
    record = {
        "votes": 41,
        "gate": GATE,
        "weightiest": [{"vote": event, "rater": "u_1", "kind": "thumb", "weight": 0.25}],
    }
    with psycopg.connect(control.settings.database_url or "") as connection:
        connection.execute(
            "insert into rounds (project, parent, outcome, reason, record, ended_at)"
            " values ('default', 'p0', 'failed', 'out of memory', '{}', now())"
        )
        row = connection.execute(
            "insert into rounds (project, parent, policy, outcome, record, ended_at)"
            " values ('default', 'p0', %s, 'published', %s, now()) returning id",
            [P1, Jsonb(record)],
        ).fetchone()
        connection.execute(
            "insert into rounds (project, parent, outcome, progress)"
            """ values ('default', %s, 'running', '{"phase": "optimizing", "done": 2, "steps": 8}')""",
            [P1],
        )
        connection.execute("update policies set gate = %s where id = %s", [Jsonb(GATE), P1])
    assert row is not None
    report = client.get(f"console/rounds/{row[0]}").json()
    assert (report["number"], report["headline"]) == (2, f"Made {P1} from p0.")
    assert report["verdict"].startswith("Not decided")
    [weighed] = report["votes_that_weighed_most"]
    assert (weighed["prompt"], weighed["comment"], weighed["weight"]) == (
        "What is Lutetia?",
        "well put",
        0.25,
    )
    checks = {check["name"]: check for check in report["checks"]}
    knowledge = checks["Knowledge"]
    assert (knowledge["found"], knowledge["limit"]) == ("90.0% right, 5.0% lost ± 1.0%", "a loss of 2%")
    assert knowledge["state"] == "unknown"
    assert checks["Length"]["state"] == "good"
    listed = client.get("console/rounds?limit=2").json()["data"]
    assert [(each["number"], each["outcome"]) for each in listed] == [(3, "running"), (2, "published")]
    status = client.get("console/status").json()
    assert status["training"]["state"] == "running"
    assert status["votes"]["until_next_round"] == 39
    assert "step 3 of 8" in hearken(control, "status")
    assert "Knowledge" in hearken(control, "rounds", str(row[0]))
    assert "a loss of 2%" in hearken(control, "policies", "show", P1)
    assert json.loads(hearken(control, "status", "--json"))["answering"]["live"] == control.live()
    assert client.get("console/rounds/999").json()["error"]["code"] == "round_not_found"
    assert client.get("console/rounds/0").status_code == 400


def test_training_is_paused_and_resumed(client: httpx.Client) -> None:
    def shown() -> list[str]:
        return [alert["summary"] for alert in client.get("console/status").json()["alerts"]]

    assert "No trainer is active" in shown()[0]
    assert client.post("training/pause").json() == {"paused": True}
    assert "Training is paused" in shown()[-1]
    assert client.post("training/resume").json() == {"paused": False}
    assert client.post("training/stop").status_code == 400


def test_two_policies_are_compared_by_their_replies(control: Service, client: httpx.Client) -> None:
    assert client.post(f"policies/{P1}/reinstate").status_code == 200
    assert client.post(f"policies/{P1}/promote").json()["served"]
    control.chat("Say it", model=P1)
    control.chat("Say it", model="p0")
    found = client.get(f"console/policies/{P1}/style?against=p0").json()
    assert found["one"]["replies"] == 1
    assert found["other"]["words"] > 0
    [sample] = found["samples"]
    assert sample["prompt"] == "Say it"
    assert sample["one"] != sample["other"]
    assert client.get(f"console/policies/{P1}/style?against={P1}").json()["error"]["param"] == "against"
    assert client.get("console/policies/p0/style?against=p99").status_code == 404
    whole = client.get(f"console/policies/{P1}").json()
    assert (whole["ancestors"], whole["children"]) == (["p0"], [P2])


def test_settings_show_their_sources_and_no_secret(control: Service, client: httpx.Client) -> None:
    rows: dict[str, Any] = {row["name"]: row for row in client.get("console/settings").json()["data"]}
    assert rows["admin_key"]["value"] == rows["database_url"]["value"] == "set"
    assert rows["trainer.rl.rank"]["value"] == 16
    assert rows["trainer.rl.rank"]["source"] == "default"
    assert ADMIN not in json.dumps(rows)


def test_the_control_room_needs_an_admin_key(control: Service) -> None:
    with control.client(PUBLIC) as client:
        for path in ("status", "rounds", "rounds/1", "policies", "policies/p0", "rollouts", "settings"):
            assert client.get(f"/v1/console/{path}").status_code == 403
        for path in ("policies/p0/promote", "policies/p0/rollback", "training/pause"):
            assert client.post(f"/v1/{path}").status_code == 403


def test_commands_without_a_service_or_a_key_say_what_to_do(control: Service) -> None:
    def said(*words: str) -> str:
        ended = subprocess.run(
            Installation.hearken(*words), env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert ended.returncode == 1
        return ended.stderr

    assert "HEARKEN_ADMIN_KEY" in said("status", "--url", control.url)
    assert "unknown or was revoked" in said("status", "--url", control.url, "--key", "sk-hearken-wrong")
    assert "does not answer" in said("status", "--url", "http://127.0.0.1:9", "--key", "sk-hearken-wrong")
