"""The router assigns each person a policy by hashing (an A/B split), and records the propensity.

Assignments are sticky without being stored: a person's hash is a point in [0, 1), and each arm owns an
interval (the base, the canary, then live). A promotion or rollback changes an interval's policy, and all
people in it move with their next request. A person is known by a pseudonym, which is a keyed hash, so nobody
can work out a name that leads to an arm. Where a request names no user, its conversation is the person. With
direct promotion each conversation of a person has a point of its own (`assignment`).
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from schemas.errors import NotFound, Unavailable
from schemas.policies import BASE, adapter_name
from schemas.projects import PersonalData
from schemas.settings import ServingSettings

_ROUTES: LiteralString = """
    select r.project, r.live, r.previous, r.canary, r.canary_share, r.duel_share, r.version,
        p.system_prompt, p.sampling, p.promotion, p.redaction,
        p.learning ->> 'tainted_policy' as tainted_policy, (
        select coalesce(jsonb_object_agg(id, digest), '{}') from policies
        where project = r.project and id in (r.live, r.previous, r.canary)
    ) as digests, array(
        select id from policies where project = r.project and tainted_at is not null
            and id in (r.live, r.previous, r.canary)
    ) as tainted
    from routes r join projects p on p.id = r.project
    where %(project)s::text is null or r.project = %(project)s
"""


@dataclass(frozen=True, slots=True)
class Route:
    """The policies that answer in a project, and their `digests`; `tainted` are those of them that learned
    from somebody who was erased. The canary answers `canary_share` of the people, or one of the replies of
    `duel_share` of the pairs. `version` grows with every change. `sampling` is what the project names
    (`schemas.projects.SamplingDefaults`), `promotion`, `redaction` and `tainted_policy` None where it leaves
    that to the settings."""

    project: str
    live: str
    previous: str
    canary: str | None
    canary_share: float
    duel_share: float
    version: int
    system_prompt: str | None
    digests: dict[str, str] = field(hash=False)
    sampling: dict[str, Any] = field(hash=False, default_factory=dict)
    promotion: str | None = None
    redaction: list[PersonalData] | None = field(default=None, hash=False)
    tainted: list[str] = field(default_factory=list, hash=False)
    tainted_policy: str | None = None

    @property
    def duels(self) -> bool:
        """Returns whether the canary is tried in duels."""
        return self.canary is not None and not self.canary_share and self.duel_share > 0

    def settings(self, serving: ServingSettings) -> ServingSettings:
        """Returns the settings, with what the project sets itself."""
        own = {"promotion": self.promotion, "tainted_policy": self.tainted_policy}
        return serving.model_copy(update={name: said for name, said in own.items() if said is not None})

    def adapter(self, policy: str) -> str:
        """Returns the name of the policy's adapter on the engines."""
        return adapter_name(self.project, policy, self.digests.get(policy, ""))

    def policies(self) -> list[str]:
        """Returns the policies that must be loaded for this route and for its rollback, the live one
        first."""
        return list(dict.fromkeys([self.live, self.previous, BASE, *filter(None, [self.canary])]))

    def adapters(self) -> set[str]:
        """Returns the names of their adapters."""
        return {self.adapter(policy) for policy in self.policies()}


@dataclass(frozen=True, slots=True)
class Assignment:
    """`propensity` is the probability that a random person gets `policy`."""

    policy: str
    propensity: float


def bucket(project: str, person: str) -> float:
    """Returns the point in [0, 1) of a pseudonym: constant for it, and uniform over people."""
    digest = hashlib.blake2b(f"{project}\0{person}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big") / 2**56


def arms(route: Route, base_share: float) -> list[tuple[str, float]]:
    """Returns the policies that answer, each with its share of all people: the base gets `base_share`, then
    the canary, then the live policy. A policy may have several shares."""
    canary_share = min(route.canary_share, 1 - base_share) if route.canary else 0.0
    return [
        (BASE, base_share),
        (route.canary or route.live, canary_share),
        (route.live, 1 - base_share - canary_share),
    ]


def assign(route: Route, person: str, base_share: float) -> Assignment:
    """Returns the policy that answers this person; the base answers `base_share` of all people."""
    shares = arms(route, base_share)
    point = bucket(route.project, person)
    policy = route.live
    end = 0.0
    for arm, share in shares:
        end += share
        if point < end:
            policy = arm
            break
    return Assignment(policy, sum(share for arm, share in shares if arm == policy))


async def fetch_routes(connection: AsyncConnection[DictRow], project: str | None = None) -> list[Route]:
    """Returns the routes of all projects, or of one."""
    cursor = await connection.execute(_ROUTES, {"project": project})
    return [Route(**row) for row in await cursor.fetchall()]


async def fetch_route(connection: AsyncConnection[DictRow], project: str) -> Route:
    """Returns the project's route. Raises NotFound when it has none."""
    for route in await fetch_routes(connection, project):
        return route
    raise NotFound(f"Project {project} has no policies yet.", code="project_not_found")


class Router:
    """The routes that this process answers by, in memory. A request reads its route once, at its start."""

    def __init__(self, base_share: float) -> None:
        self._base_share = base_share
        self._routes: dict[str, Route] = {}

    def route(self, project: str) -> Route:
        """Returns the project's route. Raises Unavailable until some engine serves one of its policies."""
        if project not in self._routes:
            raise Unavailable(f"No policy of project {project} is being served yet; try again soon.")
        return self._routes[project]

    def routes(self) -> list[Route]:
        return list(self._routes.values())

    def find(self, project: str) -> Route | None:
        return self._routes.get(project)

    def adapters(self) -> set[str]:
        """Returns the adapters of all policies that the current routes may answer by, or roll back to."""
        return {name for route in self._routes.values() for name in route.adapters()}

    def update(self, route: Route) -> bool:
        """Uses `route` from the next request on, unless a newer version is known; returns whether it does."""
        known = self._routes.get(route.project)
        if known is not None and route.version < known.version:
            return False
        self._routes[route.project] = route
        return True

    def assign(self, route: Route, person: str) -> Assignment:
        return assign(route, person, self._base_share)
