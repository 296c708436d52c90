"""Operators look at raters whose votes look hostile, and decide, by the API and by the command line."""

import json
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from typer.testing import CliRunner

from deploy.cli import app
from feedback import quarantine
from serving.console.alerts import FLOOD_VOTES
from tests.service import Service
from tests.tenants import Team, new_team

ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}


@pytest.fixture
def team(service: Service, request: pytest.FixtureRequest) -> Team:
    """A project with votes of ada and bob; both are held."""
    team = new_team(service, f"held-{abs(hash(request.node.name)) % 10**8}")
    for user in ("ada", "bob"):
        reply = team.ask("POST", "chat/completions", team.secret, json={**ASK, "user": user}).json()
        vote = {"completion_id": reply["id"], "type": "thumb", "value": "up", "comment": f"says {user}"}
        assert team.ask("POST", "feedback", team.secret, json=vote).status_code == 201
        hold(team, user)
    return team


def pseudonym(team: Team, user: str) -> str:
    return team.service.services.signer.rater_id(team.id, user, "secret")


def hold(team: Team, user: str, reason: str = "burst") -> None:
    url = team.service.settings.database_url or ""
    with psycopg.connect(url, row_factory=dict_row) as connection:
        assert quarantine.hold(connection, team.id, pseudonym(team, user), reason, {"votes": 40})


def decide(team: Team, user: str, decision: str, key: str | None = None, **fields: Any) -> Any:
    body = {"decision": decision, "reason": "looked at it", **fields}
    return team.ask("POST", f"quarantine/{pseudonym(team, user)}", key, json=body)


def test_an_operator_looks_and_decides(team: Team) -> None:
    first = team.ask("GET", "quarantine", params={"state": "held", "limit": 1}).json()
    [newest] = first["data"]
    assert (newest["rater"], newest["reason"], newest["votes"]) == (pseudonym(team, "bob"), "burst", 1)
    assert newest["evidence"] == {"burst": {"votes": 40}}
    assert (first["has_more"], first["counts"]) == (True, {"held": 2})
    rest = team.ask("GET", "quarantine", params={"before": newest["id"]}).json()
    assert [each["rater"] for each in rest["data"]] == [pseudonym(team, "ada")]
    assert not rest["has_more"]

    one = team.ask("GET", f"quarantine/{pseudonym(team, 'ada')}").json()
    [sample] = one["samples"]
    assert (sample["prompt"], sample["comment"]) == ("Hello", "says ada")

    accepted = decide(team, "ada", "accept").json()
    assert (accepted["state"], accepted["decided_by"]) == ("accepted", f"key:{team.id}-admin")
    assert accepted["decision_reason"] == "looked at it"
    assert decide(team, "bob", "reject").json()["state"] == "rejected"
    assert team.ask("GET", "quarantine").json()["counts"] == {"accepted": 1, "rejected": 1}
    assert decide(team, "bob", "accept", reason="a mistake").json()["decision_reason"] == "a mistake"

    log = team.ask("GET", "audit", params={"action": "quarantine"}).json()["data"]
    assert [each["action"] for each in log] == ["quarantine.changed"] * 3 + ["quarantine.created"] * 2
    assert {each["actor"] for each in log[:3]} == {f"key:{team.id}-admin"}
    assert "u_" not in json.dumps(log)


def test_who_may_look_and_who_may_decide(team: Team) -> None:
    keys = {role: team.make_key(roles=[role])["key"] for role in ("chat", "vote", "read", "operate")}
    keys |= {"server": team.secret, "page": team.publishable}
    looks = {name: team.ask("GET", "quarantine", key).status_code for name, key in keys.items()}
    assert {name for name, status in looks.items() if status == 200} == {"read", "operate"}
    decides = {name: decide(team, "ada", "reject", key).status_code for name, key in keys.items()}
    assert {name for name, status in decides.items() if status == 200} == {"operate"}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"decision": "accept"},
        {"decision": "accept", "reason": ""},
        {"decision": "maybe", "reason": "x"},
        {"decision": "accept", "reason": "x", "state": "held"},
    ],
)
def test_a_decision_that_is_none_is_refused(team: Team, body: dict[str, Any]) -> None:
    answer = team.ask("POST", f"quarantine/{pseudonym(team, 'ada')}", json=body)
    assert answer.status_code == 400
    assert team.ask("GET", "quarantine").json()["counts"] == {"held": 2}


def test_nobody_else_is_there(team: Team) -> None:
    for rater, code in (("u_nobody", 404), ("x%00y", 400)):
        assert team.ask("GET", f"quarantine/{rater}").status_code == code
        answer = team.ask("POST", f"quarantine/{rater}", json={"decision": "accept", "reason": "x"})
        assert answer.status_code == code
    assert team.ask("GET", "quarantine", params={"state": "odd"}).status_code == 400
    assert team.ask("GET", "quarantine", params={"before": 2**63}).status_code == 400


def test_held_raters_are_in_the_status_and_in_the_erasure_of_the_person(team: Team) -> None:
    def alerts() -> list[tuple[str, str]]:
        found = team.ask("GET", "console/status").json()["alerts"]
        return [(each["severity"], each["summary"]) for each in found if "quarantine" in each["summary"]]

    team.service.until(
        lambda: alerts() == [("info", "2 raters are in quarantine; their 2 votes do not teach.")], seconds=5
    )
    assert FLOOD_VOTES > 2
    held = team.ask("GET", "users/ada").json()
    assert held["quarantine"][0]["reason"] == "burst"
    team.ask("DELETE", "users/ada")
    team.service.until(lambda: team.ask("GET", "quarantine").json()["counts"] == {"held": 1})


def test_commands_list_and_decide_beside_the_database_and_over_http(team: Team) -> None:
    settings = team.service.settings
    beside = {"HEARKEN_DATABASE_URL": settings.database_url or "", "HEARKEN_MODEL": settings.model}
    ways = [
        (("--project", team.id), beside),
        (("--url", team.service.url), {"HEARKEN_ADMIN_KEY": team.admin}),
    ]

    def hearken(*words: str, way: Any) -> str:
        ended = CliRunner().invoke(app, ["quarantine", *words, *way[0]], env=way[1])
        assert ended.exit_code == 0, ended.output
        return ended.stdout

    def listed(*words: str, way: Any) -> list[str]:
        printed = hearken("list", "--json", *words, way=way).splitlines()
        found = json.loads(next(line for line in printed if line.startswith("[")))
        return [each["rater"] for each in found]

    ada = pseudonym(team, "ada")
    for way, decided_by in zip(ways, ("command:", "key:"), strict=True):
        assert set(listed(way=way)) == {ada, pseudonym(team, "bob")}
        assert "burst" in hearken("list", way=way)
        assert "teach again" in hearken("accept", ada, "--reason", "a regular", way=way)
        found = team.ask("GET", f"quarantine/{ada}").json()
        assert found["decided_by"].startswith(decided_by)
        hold(team, "ada", f"another reason than {decided_by}")
    assert "do not teach" in hearken("reject", ada, "--reason", "no", way=ways[0])
    assert listed("--state", "rejected", way=ways[1]) == [ada]
    assert "No rater is accepted." in hearken("list", "--state", "accepted", way=ways[0])
