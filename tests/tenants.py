"""Tests of projects and keys share these helpers: a team's own project on a running service."""

from dataclasses import dataclass
from typing import Any

import httpx

from tests.service import Service


@dataclass(frozen=True, slots=True)
class Team:
    """A project with its keys in the clear."""

    service: Service
    id: str
    admin: str
    secret: str
    publishable: str
    page: str

    def ask(self, method: str, path: str, key: str | None = None, **more: Any) -> httpx.Response:
        """Asks with a key of the team, by default its admin key."""
        with self.service.client(key or self.admin) as client:
            return client.request(method, f"/v1/{path}", **more)

    def make_key(self, **fields: Any) -> dict[str, Any]:
        made = self.ask("POST", "keys", json={"name": "a key", **fields})
        assert made.status_code == 201, made.text
        found: dict[str, Any] = made.json()
        return found

    def status(self, key: str, path: str = "models", **headers: str) -> int:
        return self.ask("GET", path, key, headers=headers).status_code


def new_team(service: Service, id: str, **fields: Any) -> Team:
    """Makes a project by the API, and waits until its base answers."""
    with service.client() as client:
        made = client.post("/v1/projects", json={"id": id, **fields})
    assert made.status_code == 201, made.text
    found = made.json()
    team = Team(service, id, **found["keys"], page=found["page"])
    service.until(lambda: team.status(team.publishable) == 200)
    return team
