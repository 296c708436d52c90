"""Which policy answers, and with what probability.

Stickiness needs no memory: a conversation's hash places it in [0, 1), and each arm owns an interval
(the base, the canary, then live). A promotion or rollback moves an interval's policy, and every
conversation in it moves with the next request.
"""

import hashlib
from dataclasses import dataclass
from typing import LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from schemas.errors import Unavailable
from schemas.policies import BASE

_ROUTES: LiteralString = """
    select r.project, r.live, r.previous, r.canary, r.canary_share, r.version, p.system_prompt
    from routes r join projects p on p.id = r.project
"""


@dataclass(frozen=True, slots=True)
class Route:
    """Who answers in a project. `version` grows with every change."""

    project: str
    live: str
    previous: str
    canary: str | None
    canary_share: float
    version: int
    system_prompt: str | None

    def policies(self) -> list[str]:
        """What must be resident for this route and for taking it back, the live one first."""
        return list(dict.fromkeys([self.live, self.previous, BASE, *filter(None, [self.canary])]))


@dataclass(frozen=True, slots=True)
class Choice:
    """`propensity` is the probability that a random conversation gets `policy`."""

    policy: str
    propensity: float


def position(project: str, conversation_id: str) -> float:
    """Where a conversation lies in [0, 1): the same for ever, and even over conversations."""
    digest = hashlib.blake2b(f"{project}\0{conversation_id}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big") / 2**56


def choose(route: Route, conversation_id: str, base_share: float) -> Choice:
    canary_share = min(route.canary_share, 1 - base_share) if route.canary else 0.0
    arms = [
        (BASE, base_share),
        (route.canary or route.live, canary_share),
        (route.live, 1 - base_share - canary_share),
    ]
    where = position(route.project, conversation_id)
    policy = route.live
    end = 0.0
    for arm, share in arms:
        end += share
        if where < end:
            policy = arm
            break
    return Choice(policy, sum(share for arm, share in arms if arm == policy))


async def fetch_routes(connection: AsyncConnection[DictRow]) -> list[Route]:
    cursor = await connection.execute(_ROUTES)
    return [Route(**row) for row in await cursor.fetchall()]


class Router:
    """The routes that this process answers by, in memory. A request asks once, at its start."""

    def __init__(self, base_share: float) -> None:
        self._base_share = base_share
        self._routes: dict[str, Route] = {}

    def route(self, project: str) -> Route:
        """Raises Unavailable until the project has a policy that some engine serves."""
        if project not in self._routes:
            raise Unavailable(f"No policy of project {project} is being served yet; try again soon.")
        return self._routes[project]

    def find(self, project: str) -> Route | None:
        return self._routes.get(project)

    def policies(self) -> set[str]:
        """Everything that the routes in force may answer by, or go back to."""
        return {policy for route in self._routes.values() for policy in route.policies()}

    def adopt(self, route: Route) -> bool:
        """Answer by `route` from the next request on, unless a newer one is known; whether that is so."""
        known = self._routes.get(route.project)
        if known is not None and route.version < known.version:
            return False
        self._routes[route.project] = route
        return True

    def choose(self, project: str, conversation_id: str) -> Choice:
        return choose(self.route(project), conversation_id, self._base_share)
