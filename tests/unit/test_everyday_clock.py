"""The clock of the bench of hidden tastes: votes arrive evenly, rounds take time, and waiting takes none."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.bench import everyday_clock
from tests.bench.everyday_clock import ARRIVAL_SHARE, WAITING_VOTES, learn

ROUND = 100.0
"""Seconds of a round."""


@dataclass
class Scripted:
    """A service and its trainer in one: a round is due after 40 votes, and then 25 new ones or 45 seconds.
    `received` has the votes of each arrival and the number of rounds that had ended when their policy began
    to answer."""

    now: float = 1_000.0
    last_round: float = 0.0
    rounds: int = 0
    learned: int = 0
    votes: int = 0
    took: float = ROUND
    received: list[tuple[int, int]] = field(default_factory=list)

    @property
    def trainer(self) -> "Scripted":
        return self

    @property
    def settings(self) -> Any:
        return SimpleNamespace(trainer=SimpleNamespace(round_seconds=45))

    def due(self) -> bool:
        new, waited = self.votes - self.learned, self.now - self.last_round >= 45
        return self.votes >= 40 and (new >= 25 or (new > 0 and waited))

    def round(self) -> str:
        self.rounds, self.learned, self.now = self.rounds + 1, self.votes, self.now + self.took
        return "published"

    def describe_round(self) -> tuple[str, str]:
        return "published", ""

    def route(self) -> int:
        return self.rounds

    def receive(self, voters: "Scripted", count: int, route: int) -> None:
        assert voters is self
        if count > 0:
            self.votes += count
            self.received.append((count, route))


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    found = Scripted()
    monkeypatch.setattr(everyday_clock, "time", SimpleNamespace(monotonic=lambda: found.now))
    return found


def run(service: Scripted, votes: int, minutes: float) -> Any:
    return learn(cast(Any, service), cast(Any, service), votes, minutes)


def test_votes_arrive_evenly_while_rounds_run_and_are_cast_on_the_policy_before(service: Scripted) -> None:
    found = run(service, votes=200, minutes=60)
    assert service.votes == found.votes == 200
    first = [count for count, _ in service.received[:4]]
    assert first == [WAITING_VOTES] * 4, "no round is due before 40 votes"
    per_vote = 3_600 * ARRIVAL_SHARE / 200
    while_training = [count for count, route in service.received[4:] if count != WAITING_VOTES]
    assert while_training
    assert max(while_training) <= ROUND / per_vote + 1
    assert service.received[4] == (int((40 * per_vote + ROUND) / per_vote) - 40, 0)
    assert service.learned == 200
    assert found.outcomes == ["published"] * service.rounds
    assert found.seconds == [ROUND] * service.rounds


def test_no_round_begins_that_would_not_end_in_time(service: Scripted) -> None:
    service.took = 400
    found = run(service, votes=200, minutes=20)
    assert found.minutes <= 20
    assert 1 <= len(found.outcomes) <= 3


def test_waiting_takes_no_time_and_the_end_is_the_end_of_the_last_round(service: Scripted) -> None:
    service.took = 1
    began = service.now
    found = run(service, votes=50, minutes=60)
    assert service.now - began == len(found.outcomes)
    arrived = 60 * ARRIVAL_SHARE
    assert arrived <= found.minutes <= arrived + 2
