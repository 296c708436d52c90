"""The clock of the bench `everyday`: votes arrive evenly, rounds take their time, and waiting takes none."""

import sys
import time

from tests.bench.everyday_outcome import Rounds
from tests.bench.everyday_service import Service
from tests.bench.voters import Voters

ARRIVAL_SHARE = 0.75
"""Share of the time in which the votes arrive."""

WAITING_VOTES = 10
"""Votes that arrive together while no round is due."""


def learn(service: Service, voters: Voters, votes: int, minutes: float) -> Rounds:
    """Lets votes arrive and rounds run until the time is up."""
    limit, per_vote = 60 * minutes, 60 * minutes * ARRIVAL_SHARE / votes
    clock = round_began = learned = 0.0
    outcomes: list[str] = []
    seconds: list[float] = []
    while clock + max(seconds, default=0.0) <= limit:
        service.trainer.last_round = time.monotonic() - (clock - round_began)
        if service.trainer.due():
            route, began, round_began = service.route(), time.monotonic(), clock
            service.trainer.round()
            seconds.append(time.monotonic() - began)
            clock = learned = clock + seconds[-1]
            outcome, what = service.describe_round()
            outcomes.append(outcome)
            print(f"  {clock / 60:5.1f} min, {voters.votes} votes: {outcome}, {what}", file=sys.stderr)
            service.receive(voters, min(votes, int(clock / per_vote)) - voters.votes, route)
        elif voters.votes < votes:
            arriving = min(WAITING_VOTES, votes - voters.votes)
            clock = max(clock, (voters.votes + arriving) * per_vote)
            service.receive(voters, arriving, service.route())
        else:
            clock += service.settings.trainer.round_seconds
    return Rounds(outcomes, seconds, learned / 60, voters.votes)
