"""A team gets a project of its own by the API: its settings, its usage, and the log of its changes."""

import json
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from deploy.cli import app
from feedback.audit import MOST_ENTRIES
from tests.service import ADMIN, Registry, Service
from tests.swapping import followed
from tests.tenants import Team, new_team

ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(scope="module")
def team(service: Service) -> Team:
    return new_team(
        service, "bakery", system_prompt="You sell bread.", sampling={"temperature": 0.3, "max_tokens": 3}
    )


def test_from_nothing_to_a_first_vote(service: Service) -> None:
    """Without SQL; the page of it is in tests/browser."""
    team = new_team(service, "team-in-a-hurry")
    page = team.make_key(name="our page", kind="publishable", origins=["https://team.example"])["key"]
    headers = {"Origin": "https://team.example"}
    reply = team.ask("POST", "chat/completions", page, json={**ASK, "max_tokens": 4}, headers=headers).json()
    vote = {
        "completion_id": reply["id"], "type": "thumb", "value": "up",
        "feedback_token": reply["hearken"]["feedback_token"],
    }  # fmt: skip
    assert team.ask("POST", "feedback", page, json=vote, headers=headers).status_code == 201
    assert [each["completion_id"] for each in team.ask("GET", "console/votes").json()["data"]] == [
        reply["id"]
    ]


def test_what_a_project_sets_shapes_its_replies(team: Team) -> None:
    def turn() -> tuple[dict[str, Any], list[dict[str, Any]]]:
        reply = team.ask("POST", "chat/completions", team.secret, json=ASK).json()
        [row] = team.service.rows("select sampling, messages from turns where id = %s", reply["id"])
        return row

    sampling, messages = turn()
    assert (sampling["temperature"], sampling["max_tokens"]) == (0.3, 3)
    assert messages[0] == {"role": "system", "content": "You sell bread."}
    said = {"system_prompt": None, "sampling": {"max_tokens": 5}}
    changed = team.ask("PATCH", f"projects/{team.id}", json=said).json()
    assert (changed["system_prompt"], changed["sampling"]) == (None, {"max_tokens": 5})
    team.service.until(lambda: turn()[0]["max_tokens"] == 5, seconds=8)
    sampling, messages = turn()
    assert (sampling["temperature"], messages[0]["role"]) == (1.0, "user")


def test_a_project_chooses_how_its_policies_go_live(team: Team) -> None:
    service = team.service
    service.until(lambda: team.ask("PATCH", f"projects/{team.id}", json={"promotion": "manual"}).is_success)
    Registry(service.settings.model_copy(update={"project": team.id})).publish("p1-bbbbbb", seed=3)
    live = "select live from routes where project = %s"
    followed(service)
    assert service.rows(live, team.id) == [("p0",)]
    team.ask("PATCH", f"projects/{team.id}", json={"promotion": None})
    service.until(lambda: service.rows(live, team.id) == [("p1-bbbbbb",)])


def test_a_project_says_what_is_learned_of_its_own_reasons_too(team: Team) -> None:
    def change(**learning: Any) -> Any:
        return team.ask("PATCH", f"projects/{team.id}", json={"learning": learning}).json()

    said = {"groups": "least_satisfied", "criteria_weights": {"safe": 0.5, "purple-prose": -1.0}}
    refused = change(**said)["error"]
    assert (refused["code"], refused["param"]) == ("invalid_value", "learning")
    assert "no criterion 'purple-prose'" in refused["message"]
    team.ask("PUT", "widget", json={"reasons": {"down": {"purple_prose": "Too flowery"}}})
    assert change(**said)["learning"] == said
    [entry] = team.ask("GET", "audit", params={"action": "project.changed", "limit": 1}).json()["data"]
    assert entry["details"] == {"learning": {"from": {}, "to": said}}
    with team.service.client() as client:
        assert client.get("/v1/projects/default").json()["learning"] == {}
        theirs = client.patch("/v1/projects/default", json={"learning": said})  # not a reason there
        assert theirs.json()["error"]["param"] == "learning"

    reply = team.ask("POST", "chat/completions", team.secret, json=ASK).json()
    vote = {"completion_id": reply["id"], "type": "thumb", "value": "down", "reasons": ["not_bread"]}
    assert "error" in change(may_not_fall=["not-bread"])
    assert team.ask("POST", "feedback", team.secret, json=vote).status_code == 201
    said = {"may_not_fall": ["not-bread"], "max_fall": 0.0, "tainted_policy": "replace"}
    assert change(**said)["learning"] == said
    assert change()["learning"] == {}


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"id": "Bakery!"}, 400, "id"),
        ({"id": "../x"}, 400, "id"),
        ({"id": "default"}, 409, "id"),
        ({"id": "ok", "sampling": {"temperature": 9}}, 400, "sampling.temperature"),
        ({"id": "ok", "promotion": "never"}, 400, "promotion"),
        ({"id": "ok", "learning": {"groups": "median"}}, 400, "learning.groups"),
        ({"id": "ok", "learning": {"criteria_weights": {"safe": 11}}}, 400, "learning.criteria_weights.safe"),
        ({"id": "ok", "learning": {"may_not_fall": ["unsafe"]}}, 400, "learning.may_not_fall"),
        ({"id": "ok", "learning": {"may_not_fall": ["saef"]}}, 400, "learning"),
        ({"id": "ok", "learning": {"max_fall": 1}}, 400, "learning.max_fall"),
        ({"id": "ok", "paused": True}, 400, "paused"),
    ],
)
def test_a_wrong_project_is_refused(service: Service, body: dict[str, Any], status: int, param: str) -> None:
    before = service.rows("select count(*) from projects")
    with service.client() as client:
        refused = client.post("/v1/projects", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (status, param)
    assert service.rows("select count(*) from projects") == before


def test_only_the_installations_own_project_makes_and_lists_others(team: Team) -> None:
    assert team.ask("POST", "projects", json={"id": "mine"}).status_code == 403
    assert [each["id"] for each in team.ask("GET", "projects").json()["data"]] == [team.id]
    assert team.ask("GET", "projects/default").status_code == 404
    with team.service.client() as client:
        listed = {each["id"] for each in client.get("/v1/projects").json()["data"]}
        assert {"default", team.id} <= listed
        page = client.get("/v1/projects", params={"limit": 1, "after": "bakery"}).json()["data"]
        assert page[0]["id"] > "bakery"


def test_every_change_is_in_the_audit_log_with_its_actor(team: Team, service: Service) -> None:
    key = team.make_key(name="noted", quotas={"key": {"tokens": 7}})
    team.ask("POST", f"keys/{key['id']}/rotate")
    team.ask("PUT", "widget", json={"greeting": "Bread?"})
    team.ask("POST", "training/pause")
    reply = team.ask("POST", "chat/completions", team.secret, json=ASK).json()
    team.ask("DELETE", f"chat/completions/{reply['id']}", team.secret)
    entries = team.ask("GET", "audit", params={"limit": 5}).json()["data"]
    assert [(each["actor"], each["action"], each["target"]) for each in entries] == [
        (f"key:{team.id}-secret", "turn.deleted", reply["id"]),
        (f"key:{team.id}-admin", "project.changed", team.id),
        (f"key:{team.id}-admin", "project.changed", team.id),
        (f"key:{team.id}-admin", "key.changed", key["id"]),
        (f"key:{team.id}-admin", "key.created", key["id"]),
    ]
    assert entries[1]["details"] == {"paused": {"from": False, "to": True}}
    assert entries[3]["details"]["secret"] == "replaced"
    assert entries[4]["details"]["quotas"]["to"] == {"key": {"tokens": 7}}
    everything = team.ask("GET", "audit", params={"limit": MOST_ENTRIES}).text
    assert "hash" not in everything
    assert key["key"] not in everything
    for query in ("user=ada", "user=bob"):  # a view may name a person, whom the log could not forget
        team.ask("PUT", "console/views/theirs", json={"query": query})
    views = team.ask("GET", "audit", params={"action": "view"})
    assert [each["action"] for each in views.json()["data"]] == ["view.changed", "view.created"]
    assert views.json()["data"][0]["details"] == {"query": "replaced"}
    assert "ada" not in views.text
    [first] = team.ask("GET", "audit", params={"action": "project.created"}).json()["data"]
    assert first["actor"] == "key:default-admin"
    older = team.ask("GET", "audit", params={"before": entries[0]["id"], "limit": 1}).json()["data"]
    assert older == [entries[1]]
    assert service.rows("update keys set name = 'by hand' where id = %s returning 1", key["id"]) == [(1,)]
    [by_hand] = team.ask("GET", "audit", params={"target": key["id"], "limit": 1}).json()["data"]
    assert by_hand["actor"].startswith("database:")


@pytest.mark.parametrize(
    "change",
    ["update audit_log set actor = 'nobody'", "delete from audit_log", "truncate audit_log"],
)
def test_nobody_changes_the_audit_log(team: Team, change: str) -> None:
    with (
        psycopg.connect(team.service.settings.database_url or "") as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"),
    ):
        connection.execute(change.encode())


def test_usage_is_counted_by_day_key_and_project(team: Team) -> None:
    key = team.make_key(name="counted", quotas={"key": {"requests": 2}})
    replies = [
        team.ask("POST", "chat/completions", key["key"], json={**ASK, "n": 2, "max_tokens": 3}),
        team.ask("GET", "models", key["key"]),
    ]
    assert team.ask("POST", "chat/completions", key["key"], json=ASK).status_code == 429
    tokens = replies[0].json()["usage"]

    def own() -> dict[str, Any]:
        rows = team.ask("GET", "usage").json()["keys"]
        return next((each for each in rows if each["key"] == key["id"]), {})

    team.service.until(lambda: own().get("requests") == 1)
    assert own() == {
        "key": key["id"], "name": "counted", "kind": "secret", "chats": 2, "votes": 0, "requests": 1,
        "refused": 1, "prompt_tokens": tokens["prompt_tokens"],
        "completion_tokens": tokens["completion_tokens"],
    }  # fmt: skip
    found = team.ask("GET", "usage").json()
    assert [each["day"] for each in found["days"]] == [found["until"]]
    assert sum(each["chats"] for each in found["keys"]) == found["days"][0]["chats"]
    assert "projects" not in found
    with team.service.client(ADMIN) as client:
        everyone = {each["project"]: each for each in client.get("/v1/usage").json()["projects"]}
        assert everyone[team.id]["chats"] == found["days"][0]["chats"]
        refused = client.get("/v1/usage", params={"since": "2020-01-01"})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "since")
    labels = {"project": team.id, "key": key["id"], "what": "chats"}
    assert team.service.counted(
        "hearken_key_usage_total", **{k: labels[k] for k in ("key", "project", "what")}
    )


def test_the_commands_do_the_same_beside_the_database_and_over_http(team: Team) -> None:
    settings = team.service.settings
    beside = {"HEARKEN_DATABASE_URL": settings.database_url or "", "HEARKEN_MODEL": settings.model}
    over_http = {"HEARKEN_ADMIN_KEY": team.admin}
    url, project = ("--url", team.service.url), ("--project", team.id)

    def hearken(*words: str, env: dict[str, str]) -> Any:
        ended = CliRunner().invoke(app, [*words, "--json"], env=env)
        assert ended.exit_code == 0, ended.output
        return json.loads(next(line for line in ended.stdout.splitlines() if line.startswith(("[", "{"))))

    made = hearken("keys", "create", "nightly", "--role", "read", "--quota", "key.requests=50", "--days", "2",
                   *project, env=beside)  # fmt: skip
    assert (made["roles"], made["quotas"]) == (["read"], {"key": {"requests": 50}})
    new = hearken("keys", "rotate", made["id"], *url, env=over_http)
    assert [team.status(each["key"], "console/votes") for each in (made, new)] == [200, 200]
    hearken("keys", "change", made["id"], "--name", "weekly", *url, env=over_http)
    hearken("keys", "revoke", made["id"], *project, env=beside)
    team.service.until(lambda: team.status(new["key"], "console/votes") == 401, seconds=8)
    for where in ((project, beside), (url, over_http)):
        [listed] = [
            each for each in hearken("keys", "list", *where[0], env=where[1]) if each["id"] == made["id"]
        ]
        assert (listed["name"], bool(listed["revoked_at"])) == ("weekly", True)
        log = hearken("audit", "--target", made["id"], *where[0], env=where[1])
        who = [(each["actor"].split(":")[0], each["action"]) for each in log]
        assert who == [
            ("command", "key.changed"), ("key", "key.changed"), ("key", "key.changed"),
            ("command", "key.created"),
        ]  # fmt: skip
        assert hearken("usage", *where[0], env=where[1])["days"]
    changed = hearken("projects", "set", team.id, "--system-prompt", "Be kind.", env=beside)
    assert changed["system_prompt"] == "Be kind."
    learning = '{"criteria_weights": {"tone": 1}, "tainted_policy": "replace"}'
    changed = hearken("projects", "set", team.id, "--learning", learning, *url, env=over_http)
    assert changed["learning"] == {"criteria_weights": {"tone": 1.0}, "tainted_policy": "replace"}
    assert hearken("projects", "set", team.id, "--learning", "", env=beside)["learning"] == {}
    assert team.id in {each["id"] for each in hearken("projects", "list", env=beside)}
    hasty = hearken("projects", "create", "made-by-command", env=beside)
    team.service.until(lambda: team.status(hasty["keys"]["publishable"]) == 200)
