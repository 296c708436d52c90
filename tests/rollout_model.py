"""A model of what should answer after any commands of rollouts, against which Postgres is compared.

It is written from the rules and not from the code: a dictionary of states, and who is the parent of whom.
"""

import random
from dataclasses import dataclass, field
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from schemas.errors import Conflict, PolicyRejected
from schemas.policies import BASE
from serving import rollout
from serving.router import fetch_route

WEIGHTS = {
    "publish": 4, "refuse": 1, "promote": 4, "bring_back": 3, "rollback": 3, "rollback_policy": 2, "start": 4,
    "end": 1, "reject": 1, "reinstate": 2, "undo": 2,
}  # fmt: skip
"""How often each command is drawn."""

Connection = AsyncConnection[DictRow]


class Refused(Exception):
    """A command that must change nothing."""


@dataclass
class Model:
    """The policies of a project by state, the two that matter, and the trial with whether votes decide it."""

    states: dict[str, str] = field(default_factory=lambda: {BASE: "live"})
    parents: dict[str, str] = field(default_factory=dict)
    answered: set[str] = field(default_factory=lambda: {BASE})
    taken_along: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    live: str = BASE
    previous: str = BASE
    trial: str | None = None
    automatic: bool = False

    def ancestors(self, policy: str) -> list[str]:
        found = []
        while (parent := self.parents.get(policy)) is not None:
            found.append(parent)
            policy = parent
        return found

    def condemned(self, policy: str) -> bool:
        """Returns whether it was trained from what was rolled back, and no one before answered everybody."""
        for ancestor in self.ancestors(policy):
            if self.states[ancestor] == "rolled_back":
                return True
            if ancestor in self.answered:
                return False
        return False

    def publish(self, policy: str, parent: str) -> None:
        self.states[policy], self.parents[policy] = "published", parent

    def refuse(self, policy: str, parent: str) -> None:
        """The gate refuses a candidate."""
        self.states[policy], self.parents[policy] = "rejected", parent
        self.refused.add(policy)

    def promote(self, policy: str, reason: str | None) -> None:
        state = self.states[policy]
        comes_back = state == "rolled_back" or policy in self.refused
        if policy == self.live or (comes_back and reason is None) or self.condemned(policy):
            raise Refused
        if state == "rejected" and not comes_back:
            raise Refused
        if comes_back:
            self._bring_back(policy)
        if self.trial == policy:
            self.trial = None
        elif self.automatic:
            self._end()
        self.states[self.live] = "retired"
        self.previous, self.live = self.live, policy
        self.states[policy] = "live"
        self.answered.add(policy)

    def rollback(self, policy: str | None = None) -> None:
        """Takes back the live policy, or the trial of `policy`."""
        if policy is None or policy == self.live:
            if self.live == BASE:
                raise Refused
            self._replace("rolled_back")
        elif policy != self.trial:
            raise Refused
        else:
            self.trial = None
            self.states[policy] = "retired" if policy in self.answered else "rolled_back"
            if policy == self.previous and policy not in self.answered:
                self.previous = BASE

    def start(self, policy: str, *, automatic: bool) -> None:
        usable = self.states[policy] in ("published", "retired") and policy not in (BASE, self.live)
        if self.trial is not None or not usable or self.condemned(policy):
            raise Refused
        self.trial, self.automatic = policy, automatic
        self.states[policy] = "canary"

    def end(self, policy: str) -> None:
        if policy == self.trial:
            self._end()

    def reject(self, policy: str) -> None:
        if policy == self.live:
            self._replace("rejected")
            return
        self.states[policy] = "rejected"
        if policy == self.trial:
            self.trial = None
        if policy == self.previous:
            self.previous = BASE

    def reinstate(self, policy: str) -> None:
        if self.states[policy] not in ("rejected", "rolled_back"):
            raise Refused
        self._bring_back(policy)

    def _bring_back(self, policy: str) -> None:
        self.states[policy] = "retired"
        self.taken_along.discard(policy)
        self.refused.discard(policy)
        for other in sorted(self.taken_along):
            if not self.condemned(other):
                self.states[other] = "retired"
                self.taken_along.discard(other)

    def _replace(self, state: str) -> None:
        """The previous policy answers instead of the live one."""
        self.states[self.live] = state
        self.live = self.previous
        self.states[self.live] = "live"
        if self.trial == self.live:
            self.trial = None
        elif self.trial is not None and self.condemned(self.trial):
            self.states[self.trial] = "rolled_back"
            self.taken_along.add(self.trial)
            self.trial = None
        elif self.trial is not None and self.automatic:
            self._end()
        before = [each for each in self.ancestors(self.live) if self.states[each] == "retired"]
        self.previous = next((each for each in before if each in self.answered), BASE)

    def _end(self) -> None:
        if self.trial is not None:
            self.states[self.trial] = "retired"
        self.trial = None


async def play(connection: Connection, project: str, seed: int, length: int = 30) -> list[str]:
    """Plays a random sequence of commands in a new project; returns it, with the difference at its end if
    Postgres and the model differ after any command."""
    draw, model = random.Random(seed), Model()
    await connection.execute("insert into projects (id) values (%s)", [project])
    await _add(connection, project, BASE, None, "live")
    await connection.execute(
        "insert into routes (project, live, previous) values (%s, %s, %s)", [project, BASE, BASE]
    )
    played: list[str] = []
    taken_back: str | None = None
    for _ in range(length):
        command = draw.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        policy = draw.choice(list(model.states))
        if command == "rollback":
            policy, taken_back = model.live, model.live
        if command == "undo":
            command, policy = "bring_back", taken_back or policy
        played.append(f"{command} {policy}")
        automatic, mode = draw.random() < 0.5, draw.choice(["canary", "duel"])
        expected = _in_model(model, command, policy, automatic=automatic)
        done = await _in_postgres(connection, project, command, policy, automatic=automatic, mode=mode)
        found = await _found(connection, project)
        if (expected, _as_row(model)) != (done, found):
            return [*played, f"DIFFERENT: {found}, {done}; expected {_as_row(model)}, {expected}"]
    return played


def _in_model(model: Model, command: str, policy: str, *, automatic: bool) -> bool:
    try:
        match command:
            case "publish":
                model.publish(f"p{len(model.states)}", policy)
            case "refuse":
                model.refuse(f"p{len(model.states)}", policy)
            case "promote":
                model.promote(policy, None)
            case "bring_back":
                model.promote(policy, "again")
            case "rollback":
                model.rollback()
            case "rollback_policy":
                model.rollback(policy)
            case "start":
                model.start(policy, automatic=automatic)
            case "end":
                model.end(policy)
            case "reject" if policy != BASE:
                model.reject(policy)
            case "reinstate":
                model.reinstate(policy)
    except Refused:
        return False
    return True


async def _in_postgres(
    connection: Connection, project: str, command: str, policy: str, *, automatic: bool, mode: Any
) -> bool:
    try:
        match command:
            case "publish":
                await _add(connection, project, await _next_name(connection, project), policy, "published")
            case "refuse":
                name = await _next_name(connection, project)
                await _add(connection, project, name, policy, "rejected")
                await connection.execute(
                    "insert into refused_candidates (project, policy, events) values (%s, %s, '{}')",
                    [project, name],
                )
            case "promote":
                await rollout.promote(connection, project, policy)
            case "bring_back":
                await rollout.promote(connection, project, policy, "again")
            case "rollback":
                await rollout.rollback(connection, project, "no")
            case "rollback_policy":
                await rollout.rollback_policy(connection, project, policy, "no")
            case "start":
                await rollout.start_canary(connection, project, policy, 0.3, automatic=automatic, mode=mode)
            case "end":
                await rollout.end_trial(connection, project, policy, "enough")
            case "reject" if policy != BASE:
                await rollout.reject(connection, project, policy, "digest")
            case "reinstate":
                await rollout.reinstate(connection, project, policy, "mended")
    except (Conflict, PolicyRejected):
        return False
    return True


def _as_row(model: Model) -> tuple[Any, ...]:
    running = [model.trial] if model.trial else []
    return model.live, model.previous, model.trial, model.states, running


async def _found(connection: Connection, project: str) -> tuple[Any, ...]:
    """Returns who answers, the states, and the policies of running rollouts."""
    route = await fetch_route(connection, project)
    cursor = await connection.execute("select id, state from policies where project = %s", [project])
    states = {row["id"]: row["state"] for row in await cursor.fetchall()}
    cursor = await connection.execute(
        "select policy from rollouts where project = %s and state = 'running'", [project]
    )
    running = [row["policy"] for row in await cursor.fetchall()]
    shares = (route.canary_share > 0) + (route.duel_share > 0)
    assert shares == (route.canary is not None), "a trial has one kind of share, and others none"
    return route.live, route.previous, route.canary, states, running


async def _next_name(connection: Connection, project: str) -> str:
    cursor = await connection.execute("select count(*) from policies where project = %s", [project])
    return f"p{(await cursor.fetchone() or {})['count']}"


async def _add(connection: Connection, project: str, policy: str, parent: str | None, state: str) -> None:
    await connection.execute(
        "insert into policies (project, id, parent, base_digest, directory, digest, manifest, state, live_at)"
        " values (%s, %s, %s, '', '', '', '{}', %s, case when %s = 'live' then now() end)",
        [project, policy, parent, state, state],
    )
