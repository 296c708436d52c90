"""No key of one project reads or changes anything of another: over every route, with every role, and by the
websocket. The requests follow from the API's own description, so a new route is tried as well, or fails the
test until what it takes is named below."""

import hashlib
import json
from typing import Any

import httpx
import psycopg
import pytest
from fastapi.routing import APIRoute
from psycopg.types.json import Jsonb

from schemas.turns import bare_id
from serving.app import create_app
from serving.page import DIST
from tests.integration.test_live import dial
from tests.service import Service
from tests.tenants import Team, new_team

MARK = "only-team-a-may-read-this"
"""In every text that the other project holds."""

OPEN = {"/healthz", "/readyz", "/metrics", "/config.json", "/openapi.json"}
"""Routes of the installation, without a key; `/cards` is of projects that publish them."""

ASK = [{"role": "user", "content": "Hello"}]
MADE_FOR_VLLM = {"/v1/completions", "/v1/embeddings"}
REFUSED_EVEN_AT_HOME = {
    "POST /v1/policies/{policy}/promote", "POST /v1/policies/{policy}/rollback",
    "POST /v1/policies/{policy}/reinstate", "POST /v1/rollouts", "POST /v1/rollouts/{rollout_id}/{action}",
    "GET /v1/console/rollouts/preview", "GET /v1/models/{model}", "POST /v1/projects",
    "GET /v1/console/policies/{id}/style", "GET /cards/{project}", "GET /cards/{project}/{policy}",
    "GET /v1/console/settings", "GET /v1/users/me", "DELETE /v1/users/me", "POST /v1/tastes/questions",
    "GET /v1/users/me/consent", "PUT /v1/users/me/consent",
}  # fmt: skip
"""What the project's own admin may not do either: its second policy is retired and without files, its cards
are private, the settings are the installation's, only a visitor is `me`, and no tastes are known."""


class Target:
    """A project with something of everything, MARK in all of it."""

    def __init__(self, service: Service) -> None:
        self.team = team = new_team(service, "team-a", system_prompt=MARK)
        ask = {
            "messages": [{"role": "user", "content": MARK}], "max_tokens": 4, "user": "ada",
            "metadata": {"conversation_id": "conv-of-a", "team": MARK},
        }  # fmt: skip
        reply = team.ask("POST", "chat/completions", team.secret, json=ask).json()
        response = f"resp_{bare_id(reply['id'])}"
        vote = {"completion_id": reply["id"], "type": "thumb", "value": "up", "comment": MARK}
        voted = team.ask("POST", "feedback", team.secret, json=vote).json()
        team.ask("PUT", "console/views/view-of-a", json={"query": MARK})
        queue = team.ask("POST", "console/queues", json={"name": MARK, "items": 5}).json()
        team.ask("PUT", "widget", json={"greeting": MARK})
        with psycopg.connect(service.settings.database_url or "") as connection:
            connection.execute(
                "insert into policies (project, id, base_digest, directory, digest, manifest, state, reason,"
                " pruned_at) values ('team-a', 'p9-aaaaaa', '', '', '', %s, 'retired', %s, now())",
                [Jsonb({"note": MARK}), MARK],
            )
            connection.execute(
                "insert into rollouts (id, project, policy, replaces, kind, share, state, reason)"
                " values ('rollout-a', 'team-a', 'p9-aaaaaa', 'p0', 'canary', 0.1, 'rolled_back', %s)",
                [MARK],
            )
            row = connection.execute(
                "insert into rounds (project, parent, outcome, reason, record, ended_at)"
                " values ('team-a', 'p0', 'skipped', %s, %s, now()) returning id",
                [MARK, Jsonb({"note": MARK})],
            ).fetchone()
            connection.execute(
                "insert into erasures (id, project, hashes, asked_by, done_at)"
                " values ('erasure-a', 'team-a', '{}', %s, now())",
                [MARK],
            )
            connection.execute(
                "insert into quarantine (project, rater, reason) select 'team-a', rater, %s from turns"
                " where id = %s",
                [MARK, reply["id"]],
            )
        assert row is not None
        webhook = {"url": "https://hooks.example/a", "events": ["rollout.ended"]}
        self.completion = reply["id"]
        self.of_path = {
            "/v1/chat/completions/{id}": reply["id"], "/v1/responses/{id}": response,
            "/v1/console/votes/{id}": voted["id"], "/v1/feedback/{feedback_id}": voted["id"],
            "/v1/console/conversations/{id}": "conv-of-a", "/v1/console/queues/{id}": queue["id"],
            "/v1/console/rounds/{id}": row[0], "/v1/console/policies/{id}": "p9-aaaaaa",
            "/v1/policies/{policy}": "p9-aaaaaa", "/cards/{project}": team.id,
            "/cards/{project}/{policy}": "p9-aaaaaa", "/v1/models/{model}": "p9-aaaaaa",
            "/v1/console/views/{name}": "view-of-a", "/v1/keys/{id}": team.make_key(name=MARK)["id"],
            "/v1/projects/{id}": team.id, "/v1/rollouts/{rollout_id}": "rollout-a",
            "/v1/rollouts/{rollout_id}/{action}": "rollback", "/v1/training/{action}": "pause",
            "/v1/users/{user}": team.ask("GET", "users/ada").json()["pseudonyms"][0],
            "/v1/console/people/{user}": team.ask("GET", "users/ada").json()["pseudonyms"][0],
            "/v1/erasures/{id}": "erasure-a",
            "/v1/quarantine/{rater}": team.ask("GET", "users/ada").json()["pseudonyms"][0],
            "/v1/webhooks/{id}": team.ask("POST", "webhooks", json=webhook).json()["id"],
        }  # fmt: skip
        thumb = {"completion_id": reply["id"], "type": "thumb", "value": "down"}
        self.bodies: dict[str, Any] = {
            "POST /v1/chat/completions": {
                "messages": ASK, "max_tokens": 1, "metadata": {"conversation_id": "conv-of-a"}
            },
            "POST /v1/chat/completions/{id}": {"metadata": {"team": "b"}},
            "POST /v1/responses": {
                "input": "Hello", "max_output_tokens": 1, "previous_response_id": response
            },
            "POST /v1/completions": {"prompt": "Hello", "model": "p9-aaaaaa"},
            "POST /v1/embeddings": {"input": "Hello"},
            "POST /v1/turns": {
                "messages": ASK, "replies": ["Hi"], "metadata": {"conversation_id": "conv-of-a"}
            },
            "POST /v1/feedback": thumb,
            "POST /v1/feedback/batch": {"feedback": [
                thumb,
                {"completion_id": reply["id"], "type": "ranking", "ranking": [[0]], "user": "eve"},
                {"completion_id": reply["id"], "type": "edit", "text": "No."},
                {"completion_id": reply["id"], "type": "signal", "signal": "copied", "feedback_token": "x"},
            ]},
            "POST /v1/sessions": {"user": "ada"},
            "PUT /v1/users/{user}/consent": {"learning": False},
            "PUT /v1/users/me/consent": {"learning": False},
            "PUT /v1/widget": {"greeting": "Hello"},
            "POST /v1/rollouts": {"policy": "p9-aaaaaa", "share": 0.1},
            "PUT /v1/console/views/{name}": {"query": "value=up"},
            "POST /v1/console/queues": {"name": "q", "items": 5},
            "POST /v1/console/queues/{id}/answers": {
                "rater": "ann", "completion_id": reply["id"], "value": "up"
            },
            "POST /v1/projects": {"id": team.id},
            "PATCH /v1/projects/{id}": {
                "system_prompt": "Obey me.", "learning": {"groups": "least_satisfied"}
            },
            "POST /v1/keys": {"name": "k"},
            "POST /v1/tastes/questions": {"user": "ada"},
            "POST /v1/webhooks": {"url": "https://hooks.example/b"},
            "POST /v1/webhooks/{id}/replay": {"since": "2026-01-01T00:00:00Z"},
            "PATCH /v1/keys/{id}": {"name": "mine"},
            "POST /v1/quarantine/{rater}": {"decision": "accept", "reason": "mine"},
        }  # fmt: skip
        self.queries: dict[str, Any] = {
            "user": "ada", "policy": "p9-aaaaaa", "tag": f"team={MARK}", "text": MARK, "rater": "ann",
            "against": "p0", "actor": f"key:{team.id}-admin",
        }  # fmt: skip

    def address(self, path: str) -> str:
        """Returns the path with the project's own ids in it."""
        steps = path.split("/")
        for place, step in enumerate(steps):
            if step.startswith("{"):
                prefix = "/".join(path.split("/")[: place + 1])
                assert prefix in self.of_path, f"Name what {prefix} is of the project, so that it is tried."
                steps[place] = str(self.of_path[prefix])
        return "/".join(steps)

    def query(self, path: str, operation: dict[str, Any]) -> dict[str, Any]:
        names = {each["name"] for each in operation.get("parameters", []) if each["in"] == "query"}
        names -= {"text"} if path == "/v1/console/conversations" else set()
        found = {name: value for name, value in self.queries.items() if name in names}
        return {**found, "action": "start"} if "share" in names else found

    def state(self) -> dict[str, str]:
        """Returns a digest of all rows of the project, by table; what it used may grow."""
        with psycopg.connect(self.team.service.settings.database_url or "") as connection:
            tables = connection.execute(
                "select table_name from information_schema.columns join information_schema.tables"
                " using (table_schema, table_name) where table_schema = 'public' and column_name = 'project'"
                " and table_type = 'BASE TABLE' and table_name <> 'key_usage'"
            ).fetchall()
            found = {}
            for name, column in [*((name, "project") for (name,) in tables), ("projects", "id")]:
                query = f'select t::text from "{name}" t where {column} = %s order by 1'  # noqa: S608
                rows = connection.execute(query.encode(), [self.team.id]).fetchall()
                found[name] = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
        return found


@pytest.fixture(scope="module")
def target(service: Service) -> Target:
    return Target(service)


@pytest.fixture(scope="module")
def stranger(service: Service) -> Team:
    return new_team(service, "team-b")


@pytest.fixture(scope="module")
def operations(service: Service) -> dict[str, dict[str, Any]]:
    """Every operation of the API, as `GET /v1/…`, with its description."""
    app = create_app(service.settings)
    described = app.openapi()["paths"]
    pages = {f"/{path.relative_to(DIST).as_posix()}" for path in DIST.rglob("*")}
    pages |= {page.removesuffix(".html") for page in pages} | {"/"}
    routes = {route.path.replace(":path", "") for route in app.routes if isinstance(route, APIRoute)}
    assert routes - set(described) - pages - OPEN == set(), "It is not described, so it is not tried."
    return {
        f"{method.upper()} {path}": operation
        for path, methods in described.items()
        if path not in OPEN
        for method, operation in methods.items()
    }


def keys_of(team: Team) -> dict[str, str | None]:
    """Returns a key of every kind and role, and none."""
    roles = ("chat", "vote", "read", "operate")
    made: dict[str, str | None] = {role: team.make_key(roles=[role])["key"] for role in roles}
    kinds = {"admin": team.admin, "secret": team.secret, "publishable": team.publishable}
    return {**made, **kinds, "no key": None}


def ask(client: httpx.Client, target: Target, name: str, operation: dict[str, Any]) -> tuple[int, str]:
    """Asks for the target's own; returns the status and all that was answered, of a stream its beginning."""
    method, path = name.split(" ")
    body = target.bodies.get(name)
    query = target.query(path, operation)
    with client.stream(method, target.address(path), params=query, json=body) as answer:
        if "event-stream" in answer.headers.get("content-type", ""):
            return answer.status_code, next(answer.iter_text())
        return answer.status_code, answer.read().decode() + str(answer.headers)


def test_no_key_of_another_project_gets_or_changes_anything(
    service: Service, target: Target, stranger: Team, operations: dict[str, dict[str, Any]]
) -> None:
    before, leaks, attempts = target.state(), [], 0
    for role, key in keys_of(stranger).items():
        with service.client(key) as client:
            for name, operation in operations.items():
                status, text = ask(client, target, name, operation)
                attempts += 1
                if MARK in text or (status >= 500 and name.split(" ")[1] not in MADE_FOR_VLLM):
                    leaks.append((role, name, status, text[:300]))
    assert leaks == []
    assert target.state() == before
    assert attempts == 8 * len(operations) > 450


def test_the_websocket_gives_another_project_nothing(
    service: Service, target: Target, stranger: Team
) -> None:
    before = target.state()
    vote = {"completion_id": target.completion, "type": "thumb", "value": "down"}
    votes = [vote, {**vote, "user": "ada"}, {**vote, "feedback_token": "forged"}]
    for role, key in keys_of(stranger).items():
        heard = []
        with dial(service) as socket:
            socket.send(type="auth", key=key)
            first = socket.next("ready", "error")
            if first["type"] == "error":
                assert role in ("read", "operate", "no key")
                continue
            assert first["project"] == stranger.id
            metadata = {"conversation_id": "conv-of-a"}
            socket.send(type="chat", id="c", messages=ASK, max_tokens=1, metadata=metadata)
            heard.append(socket.next("done", "error", id="c"))
            for number, said in enumerate(votes):
                socket.send(type="feedback", id=f"v{number}", feedback=said)
                answer = socket.next("recorded", "error", id=f"v{number}")
                assert answer["type"] == "error", (role, said)
                heard.append(answer)
        assert MARK not in json.dumps(heard)
    assert target.state() == before


def test_the_same_requests_are_answered_at_home(
    service: Service, target: Target, operations: dict[str, dict[str, Any]]
) -> None:
    """Else what is refused to the others would prove nothing. It comes last: it deletes."""
    seen, refused = set(), {}
    ending = ("DELETE", "/revoke", "/pause")
    ordered = sorted(operations, key=lambda name: (any(each in name for each in ending), name))
    with service.client(target.team.admin) as client:
        for name in ordered:
            status, text = ask(client, target, name, operations[name])
            if status >= 300:
                refused[name] = (status, text[:200])
            if MARK in text:
                seen.add(name)
    gone = {"DELETE /v1/responses/{id}", "DELETE /v1/feedback/{feedback_id}"}  # with the completion
    allowed = REFUSED_EVEN_AT_HOME | gone | {f"POST {path}" for path in MADE_FOR_VLLM}
    assert {name: why for name, why in refused.items() if name not in allowed} == {}
    assert len(seen) > 25, seen
