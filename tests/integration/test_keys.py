"""Keys are made, changed, rotated and ended by the API; their roles, origins and quotas are obeyed."""

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.service import ADMIN, PUBLIC, Service, run_api
from tests.tenants import Team, new_team

ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
CHAT = "chat/completions"


@pytest.fixture(scope="module")
def team(service: Service) -> Team:
    return new_team(service, "keys-team")


@pytest.fixture
def replica(service: Service) -> Iterator[str]:
    """Another process, beside the service."""
    with run_api(service.settings) as (url, _):
        service.until(lambda: httpx.get(f"{url}/readyz").status_code == 200)
        yield url


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_rotated_key_has_two_live_secrets_and_a_revoked_one_none(team: Team, replica: str) -> None:
    """Also at a replica that has both in its cache: it hears of the change within seconds."""
    key = team.make_key(name="shop server")
    assert (key["kind"], key["roles"]) == ("secret", ["chat", "read", "vote"])
    new = team.ask("POST", f"keys/{key['id']}/rotate", json={"overlap_seconds": 3600}).json()
    assert new["previous_expires_at"]
    assert new["key"] != key["key"]

    def at_replica(secret: str) -> int:
        return httpx.get(f"{replica}/v1/models", headers={"Authorization": f"Bearer {secret}"}).status_code

    secrets = (key["key"], new["key"])
    assert [team.status(each) for each in secrets] == [200, 200]
    assert [at_replica(each) for each in secrets] == [200, 200]
    third = team.ask("POST", f"keys/{key['id']}/rotate", json={"overlap_seconds": 0}).json()["key"]
    team.service.until(lambda: [at_replica(each) for each in (*secrets, third)] == [401, 401, 200], seconds=8)
    assert team.ask("POST", f"keys/{key['id']}/revoke").json()["revoked_at"]
    team.service.until(lambda: at_replica(third) == 401, seconds=8)
    assert refusal(team.ask("POST", f"keys/{key['id']}/rotate")) == (409, "key_revoked")
    [shown] = [each for each in team.ask("GET", "keys").json()["data"] if each["id"] == key["id"]]
    assert "key" not in shown
    assert not [each for each in secrets if each in team.ask("GET", "keys").text]


def test_a_key_expires(team: Team) -> None:
    key = team.make_key(expires_at="2999-01-01T00:00:00Z")
    assert team.status(key["key"]) == 200
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 2))
    assert team.ask("PATCH", f"keys/{key['id']}", json={"expires_at": soon}).status_code == 200
    team.service.until(lambda: team.status(key["key"]) == 401)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"kind": "secret"}, "name"),
        ({"name": "k", "kind": "publishable", "roles": ["chat", "read"]}, None),
        ({"name": "k", "kind": "admin", "roles": ["chat"]}, None),
        ({"name": "k", "roles": ["admin"]}, None),
        ({"name": "k", "roles": []}, "roles"),
        ({"name": "k", "origins": ["https://a.example"]}, None),
        ({"name": "k", "kind": "publishable", "origins": ["https://a.example/path"]}, "origins[0]"),
        ({"name": "k", "quotas": {"key": {"tokens": 0}}}, "quotas.key.tokens"),
        ({"name": "k", "expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
        ({"name": "k", "expires_at": "9999-12-31T23:00:00-12:00"}, "expires_at"),
        ({"name": "k", "hash": "x"}, "hash"),
    ],
)
def test_a_wrong_key_is_refused(team: Team, body: dict[str, Any], param: str | None) -> None:
    before = len(team.ask("GET", "keys").json()["data"])
    refused = team.ask("POST", "keys", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    assert len(team.ask("GET", "keys").json()["data"]) == before


def test_nobody_is_locked_out(team: Team, service: Service) -> None:
    assert refusal(team.ask("POST", f"keys/{team.id}-admin/revoke")) == (409, "last_admin_key")
    with service.client() as client:
        assert refusal(client.post("/v1/keys/default-admin/rotate")) == (409, "key_in_settings")
        assert refusal(client.post(f"/v1/keys/{team.id}-admin/revoke")) == (404, "key_not_found")


OF_ROLE = {
    "chat": ("POST", CHAT, ASK),
    "vote": ("POST", "feedback", {"completion_id": "chatcmpl-none", "type": "thumb", "value": "up"}),
    "read": ("GET", "console/votes", None),
    "operate": ("POST", "training/resume", None),
    "admin": ("GET", "keys", None),
}


def test_a_key_does_what_its_roles_say_and_no_more(team: Team) -> None:
    keys = {role: team.make_key(roles=[role])["key"] for role in ("chat", "vote", "read", "operate")}
    keys |= {"admin": team.admin, "server": team.secret, "page": team.publishable}
    also = {"operate": {"read"}, "admin": set(OF_ROLE), "server": {"chat", "vote"}, "page": {"chat", "vote"}}
    for name, key in keys.items():
        allowed = also.get(name, set()) | ({name} & set(OF_ROLE))
        for role, (method, path, body) in OF_ROLE.items():
            answer = team.ask(method, path, key, json=body)
            no_role = answer.status_code == 403 and answer.json()["error"]["code"] == "forbidden"
            assert no_role == (role not in allowed), (name, role, answer.text)
    assert team.ask("GET", "feedback/export", team.secret).status_code == 200
    assert refusal(team.ask("GET", "feedback/export", keys["chat"])) == (403, "forbidden")
    pinned = {**ASK, "model": "p0"}
    assert refusal(team.ask("POST", CHAT, team.secret, json=pinned)) == (403, "forbidden")
    both = team.make_key(roles=["chat", "operate"])["key"]
    assert team.ask("POST", CHAT, both, json=pinned).json()["system_fingerprint"] == "p0"


def test_a_publishable_key_is_for_its_pages(team: Team) -> None:
    key = team.make_key(kind="publishable", origins=["https://shop.example"])["key"]
    own = team.service.url
    assert [team.status(key, Origin=each) for each in ("https://shop.example", own)] == [200, 200]
    assert team.status(key) == 200  # no browser
    for foreign in ("https://shop.example.evil.test", "http://shop.example", "null"):
        refused = team.ask("GET", "models", key, headers={"Origin": foreign})
        assert refusal(refused) == (403, "origin_not_allowed")
    assert team.status(team.publishable, Origin="https://evil.test") == 200


def test_quotas_of_a_key_count_requests_and_tokens(team: Team) -> None:
    key = team.make_key(quotas={"key": {"requests": 2, "tokens": 1_000}})["key"]
    assert [team.status(key) for _ in "123"] == [200, 200, 429]
    assert team.ask("POST", CHAT, key, json={**ASK, "n": 2}).status_code == 200
    key = team.make_key(quotas={"key": {"tokens": 6}})
    used = team.ask("POST", CHAT, key["key"], json=ASK).json()["usage"]["total_tokens"]
    assert used > 6
    refused = team.ask("POST", CHAT, key["key"], json=ASK)
    assert refusal(refused) == (429, "rate_limit_exceeded")
    assert 1 <= int(refused.headers["retry-after"]) <= 60 * used / 6
    assert team.status(key["key"]) == 200
    raised = team.ask("PATCH", f"keys/{key['id']}", json={"quotas": {"key": {"tokens": 1_000_000}}})
    assert raised.json()["quotas"] == {"key": {"tokens": 1_000_000}}
    team.service.until(lambda: team.ask("POST", CHAT, key["key"], json=ASK).status_code == 200, seconds=5)


def test_each_prompt_that_passes_through_counts(team: Team) -> None:
    key = team.make_key(quotas={"key": {"tokens": 500}})["key"]
    body: dict[str, Any] = {"prompt": ["Hello"] * 8, "max_tokens": 100}
    assert [team.ask("POST", "completions", key, json=body).status_code for _ in "12"] == [404, 429]
    for long in ("Hello " * 500, [[1] * 400, [2] * 400]):
        key = team.make_key(quotas={"key": {"tokens": 500}})["key"]
        body = {"prompt": long, "max_tokens": 1}
        assert [team.ask("POST", "completions", key, json=body).status_code for _ in "12"] == [404, 429]


def test_quotas_of_a_person_and_of_an_address_leave_the_others_alone(team: Team) -> None:
    key = team.make_key(quotas={"person": {"tokens": 6}, "address": {"requests": 5}})["key"]

    def ask(user: str, address: str) -> int:
        headers = {"X-Forwarded-For": address}
        return team.ask("POST", CHAT, key, json={**ASK, "user": user}, headers=headers).status_code

    assert [ask("ada", "192.0.2.1"), ask("ada", "192.0.2.1"), ask("bob", "192.0.2.1")] == [200, 429, 200]
    assert [ask(f"new-{number}", "192.0.2.1") for number in range(3)] == [200, 200, 429]
    assert ask("eve", "192.0.2.2") == 200


def test_keys_that_came_with_the_settings_still_work(service: Service) -> None:
    with service.client(PUBLIC) as page, service.client(ADMIN) as admin:
        assert page.get("/v1/models").status_code == 200
        assert admin.get("/v1/console/settings").status_code == 200
