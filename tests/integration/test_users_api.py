"""What is held about a person is shown to those who may see it, and a person is erased through the API."""

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from feedback import receipt
from tests.installation import Installation
from tests.service import ADMIN, PUBLIC, Service

CANARY = "quagga"


def said_and_voted(service: Service, user: str) -> dict[str, Any]:
    """A chat of somebody, and their thumb with a comment."""
    reply = service.chat(f"I like the {CANARY}", user=user, metadata={"conversation_id": f"{user}-0171"})
    vote = {
        "completion_id": reply["id"], "type": "thumb", "value": "up", "comment": f"A {CANARY}!",
    }  # fmt: skip
    with service.client() as client:
        sent = client.post("/v1/feedback", json=vote, headers={"Idempotency-Key": f"{user}-1"})
        assert sent.status_code == 201
    return reply


def done(service: Service, client: httpx.Client, erasure: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def is_done() -> bool:
        found.update(client.get(f"/v1/erasures/{erasure['id']}").json())
        return found["state"] == "done"

    service.until(is_done)
    return found


def test_a_person_is_shown_and_erased_by_name(service: Service) -> None:
    reply, other = said_and_voted(service, "adele"), said_and_voted(service, "ben")
    with service.client() as client:
        shown = client.get("/v1/users/adele")
        assert shown.headers["content-disposition"].startswith("attachment")
        held = shown.json()
        assert [each["id"] for each in held["turns"]] == [reply["id"]]
        assert held["turns"][0]["replies"][0]["text"] == reply["choices"][0]["message"]["content"]
        assert [each["comment"] for each in held["votes"]] == [f"A {CANARY}!"]
        assert len(held["pseudonyms"]) == 2

        asked = client.delete("/v1/users/adele")
        assert asked.status_code == 202
        again = client.delete("/v1/users/adele").json()
        found = done(service, client, asked.json())

        assert again["id"] == found["id"]
        steps = {step["step"]: step for step in found["steps"]}
        assert [steps["database"][name] for name in ("turns", "votes", "answers")] == [1, 1, 1]
        receipt.verify(found["receipt"], client.get("/v1/erasures/key").json()["public_key"])
        assert client.get("/v1/users/adele").json()["turns"] == []
        assert client.get(f"/v1/chat/completions/{reply['id']}").status_code == 404
        assert client.get(f"/v1/chat/completions/{other['id']}").status_code == 200
        assert found["id"] in [each["id"] for each in client.get("/v1/erasures").json()["data"]]
        audited = client.get("/v1/audit", params={"action": "erasure", "target": found["id"]}).json()["data"]
        assert [each["action"] for each in audited] == ["erasure.done", "erasure.created"]
        assert audited[0]["actor"] == "service"
        assert audited[1]["actor"].startswith("key:")
        assert not any(
            each in str(audited) for each in ["adele", *held["pseudonyms"], *found["receipt"]["person"]]
        )
    assert service.rows("select 1 from feedback where rater = any(%s)", held["pseudonyms"]) == []
    assert "adele-0171" not in str(service.rows("select outbox::text from outbox"))


def test_what_was_found_out_about_a_person_is_held_data(service: Service) -> None:
    """It is in the file, and goes with the person."""
    rater = service.services.signer.rater_id("default", "zoe", "secret")
    service.rows(
        "insert into person_tastes (project, rater, policy, weights, votes)"
        " values ('default', %s, 'p1', '{0.5,-1}', 7) returning 1",
        rater,
    )
    service.rows(
        "insert into rollout_failures (project, policy, rater, origin) values ('default', 'p1', %s, 'n')"
        " returning 1",
        rater,
    )
    with service.client() as client:
        held = client.get("/v1/users/zoe").json()
        assert [each["weights"] for each in held["tastes"]] == [[0.5, -1.0]]
        assert [each["network"] for each in held["failed_requests"]] == ["n"]
        figures = client.get("/v1/console/people/zoe").json()
        assert figures == {
            "pseudonyms": held["pseudonyms"], "turns": 0, "votes": 0, "learned_by": [], "erasures": []
        }  # fmt: skip
        erasure = client.delete("/v1/users/zoe").json()
        done(service, client, erasure)
        held = client.get("/v1/users/zoe").json()
        assert (held["tastes"], held["failed_requests"]) == ([], [])
        assert [each["id"] for each in client.get("/v1/console/people/zoe").json()["erasures"]] == [
            erasure["id"]
        ]


def test_what_a_judge_found_and_filters_that_name_a_person_are_held_data(service: Service) -> None:
    said_and_voted(service, "dora")
    service.rows(
        "insert into comment_criteria (feedback_id, project, judge, criteria)"
        " select id, project, 'a judge', '{\"tone\": true}' from feedback where rater = %s returning 1",
        service.services.signer.rater_id("default", "dora", "secret"),
    )
    with service.client() as client:
        pseudonym = client.get("/v1/users/dora").json()["pseudonyms"][0]
        for name, query in (
            ("by name", "user=dora"),
            ("hers", f"user={pseudonym}"),
            ("another's", "user=ed"),
        ):
            client.put(f"/v1/console/views/{name}", json={"query": query}).raise_for_status()
        held = client.get("/v1/users/dora").json()
        assert [each["criteria"] for each in held["comment_criteria"]] == [{"tone": True}]
        assert [each["name"] for each in held["saved_filters"]] == ["by name", "hers"]
        done(service, client, client.delete("/v1/users/dora").json())
        held = client.get("/v1/users/dora").json()
        assert (held["comment_criteria"], held["saved_filters"]) == ([], [])


def test_a_visitor_sees_and_erases_themself_and_nobody_else(service: Service) -> None:
    """Whoever has the id of an erasure reads it: the page has another session by then."""
    with service.client(PUBLIC) as client:
        mine, theirs = ({"Hearken-Session": client.post("/v1/sessions").json()["token"]} for _ in range(2))
        body = {"model": "default", "messages": [{"role": "user", "content": CANARY}], "max_tokens": 4}
        for session in (mine, theirs):
            client.post("/v1/chat/completions", json=body, headers=session).raise_for_status()

        assert len(client.get("/v1/users/me", headers=mine).json()["turns"]) == 1
        erasure = client.delete("/v1/users/me", headers=mine)
        assert erasure.status_code == 202
        assert len(erasure.json()["id"]) == len("erasure-") + 24  # hexadecimal digits that nobody guesses
        found = done(service, client, erasure.json())

        assert CANARY not in str(found)
        assert found["asked_by"] == "visitor"
        said = "select actor from audit_log where target = %s and action = 'erasure.created'"
        assert service.rows(said, found["id"]) == [("visitor",)]
        assert found["receipt"]["signature"]
        assert client.get("/v1/users/me", headers=mine).json()["turns"] == []
        assert len(client.get("/v1/users/me", headers=theirs).json()["turns"]) == 1


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/users/ada", 403, "forbidden"),
        ("DELETE", "/v1/users/ada", 403, "forbidden"),
        ("GET", "/v1/users/me", 401, "missing_session"),
        ("DELETE", "/v1/users/me", 401, "missing_session"),
        ("GET", "/v1/erasures", 403, "forbidden"),
        ("GET", "/v1/erasures/erasure-1", 404, "erasure_not_found"),
    ],
)
def test_a_publishable_key_names_nobody(
    service: Service, method: str, path: str, status: int, code: str
) -> None:
    with service.client(PUBLIC) as client:
        answer = client.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_the_command_line_erases_and_checks_receipts(service: Service, tmp_path: Path) -> None:
    said_and_voted(service, "carl")
    assert "Say --yes" in hearken(service, "erase", "carl", code=1)
    asked = json.loads(hearken(service, "erase", "carl", "--yes", "--json"))
    with service.client() as client:
        found = done(service, client, asked)
    assert "done" in hearken(service, "erasures", "show", asked["id"])
    assert asked["id"] in hearken(service, "erasures")
    file = tmp_path / "receipt.json"
    file.write_text(json.dumps(found))
    assert asked["id"] in hearken(service, "erasures", "verify", str(file))
    file.write_text(json.dumps(found["receipt"] | {"done_at": "2030-01-01T00:00:00Z"}))
    assert "signature" in hearken(service, "erasures", "verify", str(file), code=1)


def hearken(service: Service, *words: str, code: int = 0) -> str:
    """Runs a command against the service from elsewhere; returns what it said."""
    ended = subprocess.run(
        [*Installation.hearken(*words), "--url", service.url],
        env={"HEARKEN_ADMIN_KEY": ADMIN, "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert ended.returncode == code, ended.stderr
    return ended.stdout if code == 0 else ended.stderr


def test_odd_names_are_refused_or_find_nobody(service: Service) -> None:
    with service.client() as client:
        assert client.get(f"/v1/users/{'x' * 513}").status_code == 400
        assert client.get("/v1/users/a%00b").status_code == 400
        assert client.get("/v1/erasures/a%00b").status_code == 400
        assert client.get("/v1/users/a%2Fb%3Fc").json()["turns"] == []
