"""How rollouts decide, by simulation: false verdicts, votes until a verdict, days of a small site.

    python -m tests.bench.rollouts [RUNS]

Every rollout is watched from its first votes on: after each of the first hundred, then after every 3% more.
People lean (their own approval has a standard deviation of 0.2 around the policy's), come back (two votes
each on average), and their tastes differ between two policies that are equal on average. The decision is
`serving.rollout_decision.decide`, with all that it needs known. Promised:

- equal policies, 2,000 rollouts of each mode: rolled back in at most 5%, promoted in at most 5%;
- worse by the margin: promoted in at most 5%;
- 10 points worse: rolled back with at most twice the votes of a test with one look that finds it in 95% (a
  one-sided z-test at 5%, half of the people on either policy, one vote each), in 95% of the rollouts;
- the same by duels: in the median with at most half of the canary's votes;
- 30 conversations a day with one comparison each, 15 points better: promoted in 10 days in the median of 200.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from math import ceil
from typing import Any

import numpy as np

from serving.comparison import Comparison, between_groups, within_people
from serving.rollout_decision import MOST_PEOPLE, Evidence, Mode, Rules, decide

RAMP = (0.05, 0.2, 0.5)
LIVE_APPROVAL = 0.55
SEEDS = 1_000_000  # of one setting; the next begins there
_HOUR = timedelta(hours=1)
Ints = np.ndarray[tuple[int], np.dtype[np.int64]]
Values = np.ndarray[tuple[int], np.dtype[Any]]
_ALIKE = Comparison(0.0, 0.02, 0.5, 0.5, 100, 100)
_OTHERS = {"regenerations": _ALIKE, "errors": _ALIKE, "latency": _ALIKE, "length": _ALIKE}


@dataclass(frozen=True)
class World:
    """How the candidate differs from the live policy (`lead`, in approval), how far people lean, how far
    their tastes differ between the two, how many votes they have on average, and when a rollout ends that
    shows nothing (votes)."""

    mode: Mode
    lead: float
    lean: float = 0.2
    taste: float = 0.1
    votes: float = 2.0
    approval: float = LIVE_APPROVAL
    ramp: tuple[float, ...] = RAMP
    most: int = 3_000
    margin: float = 0.0


@dataclass(frozen=True)
class Outcome:
    action: str
    votes: int


def looks(most: int) -> Iterator[int]:
    """Yields the numbers of votes at which a rollout is looked at."""
    at = 10
    while at < most:
        yield at
        at = at + 1 if at < 100 else ceil(at * 1.03)
    yield most


def visitors(draw: np.random.Generator, world: World) -> Ints:
    """Returns the person of each vote: a new one, or one who came before."""
    new = draw.random(world.most) < 1 / world.votes
    new[0] = True
    known = np.cumsum(new) - new
    return np.where(new, known, (draw.random(world.most) * known).astype(np.int64))


class Cells:
    """The mean of each cell that has votes, a cell being a number, with the votes of one look added to those
    before."""

    def __init__(self, cells: int) -> None:
        self._sums, self._counts = np.zeros(cells), np.zeros(cells, dtype=np.int64)

    def add(self, cell: Ints, value: Values) -> tuple[Ints, Values]:
        """Adds votes; returns the cells that have some, and their means."""
        np.add.at(self._sums, cell, value)
        np.add.at(self._counts, cell, 1)
        used = np.flatnonzero(self._counts > 0)
        return used, self._sums[used] / self._counts[used]


def simulate(world: World, seed: int) -> Outcome:
    draw = np.random.default_rng(seed)
    people = visitors(draw, world)
    count = int(people.max()) + 1
    lean, taste = draw.normal(0, world.lean, count), draw.normal(0, world.taste, count)
    new = np.clip(world.approval + lean + world.lead + taste / 2, 0, 1)[people]
    old = np.clip(world.approval + lean - taste / 2, 0, 1)[people]
    likes_new, likes_old = draw.random(world.most) < new, draw.random(world.most) < old
    match world.mode:
        case "duel":
            return _duel(world, people, 0.5 + (likes_new.astype(float) - likes_old) / 2)
        case "canary":
            return _canary(world, people, draw.random(count)[people], likes_new, likes_old)
        case "direct":
            return _direct(world, people, likes_new, likes_old, draw.random(count)[people] < 0.02)


def _duel(world: World, people: Ints, scores: Values) -> Outcome:
    cells, before = Cells(int(people.max()) + 1), 0
    for seen in looks(world.most):
        wins = within_people(*cells.add(people[before:seen], scores[before:seen]), even=0.5)
        evidence = Evidence("duel", "new", "live", {"wins": wins, "latency": _ALIKE, "length": _ALIKE})
        action, _ = decide(evidence, Rules(margin=world.margin))
        if action != "wait":
            return Outcome(action, seen)
        before = seen
    return Outcome("end", world.most)


def _canary(world: World, people: Ints, bucket: Values, likes_new: Values, likes_old: Values) -> Outcome:
    cells, before = Cells((int(people.max()) + 1) * 8), 0
    stage, tried = 0, np.zeros(len(people), dtype=bool)
    for seen in looks(world.most):
        new = slice(before, seen)
        own = bucket[new] < world.ramp[stage]
        liked = np.where(own, likes_new[new], likes_old[new])
        cell, value = cells.add((people[new] * 4 + stage) * 2 + own, liked)
        approval = between_groups(cell // 8, cell % 2 == 1, cell // 2 % 4, value)
        tried[people[new][own]] = True
        evidence = Evidence(
            "canary", "new", "live", {"approval": approval, **_OTHERS},
            stage_people=int(tried.sum()), stage_age=_HOUR,
        )  # fmt: skip
        rules = Rules(margin=world.margin, last_stage=stage == len(world.ramp) - 1)
        action, _ = decide(evidence, rules)
        if action == "advance":
            stage, tried[:] = stage + 1, False
        elif action != "wait":
            return Outcome(action, seen)
        before = seen
    return Outcome("end", world.most)


def _direct(world: World, people: Ints, likes_new: Values, likes_old: Values, holdback: Values) -> Outcome:
    """The first third of the votes came before the policy went live; a fiftieth of the people have the
    base."""
    start = world.most // 3
    after = np.arange(world.most) >= start
    kind = np.where(holdback, 2, after)  # before, after, or the base
    liked = np.where(kind == 1, likes_new, likes_old)
    cells, before = Cells((int(people.max()) + 1) * 8), 0
    for seen in looks(world.most - start):
        new = slice(before, start + seen)
        cell, value = cells.add((people[new] * 2 + after[new]) * 4 + kind[new], liked[new])
        found, was, person = cell % 4, cell // 4 % 2, cell // 8
        sides = {"approval": found < 2, "holdback": ((found == 2) & (was == 1)) | (found == 1)}
        comparisons = {
            name: between_groups(person[side], found[side] == 1, np.zeros(side.sum(), dtype=int), value[side])
            for name, side in sides.items()
        }
        action, _ = decide(Evidence("direct", "new", "live", comparisons), Rules())
        if action != "wait":
            return Outcome(action, seen)
        before = start + seen
    return Outcome("end", world.most)


def outcomes(world: World, runs: int, first_seed: int) -> list[Outcome]:
    with ProcessPoolExecutor(2) as pool:
        return list(pool.map(partial(simulate, world), range(first_seed, first_seed + runs), chunksize=10))


def _shares(found: list[Outcome]) -> dict[str, float]:
    counts = Counter(each.action for each in found)
    return {action: counts[action] / len(found) for action in ("promote", "rollback", "end")}


def main() -> int:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000
    missed: list[str] = []

    def check(what: str, value: float, most: float) -> None:
        print(f"  {what}: {value:.4g} (at most {most:.4g})", flush=True)
        if value > most:
            missed.append(what)

    equal = [
        ("canary", World("canary", 0.0)),
        ("canary of one share, 85% like it", World("canary", 0.0, lean=0.1, approval=0.85, ramp=(0.3,))),
        ("duel", World("duel", 0.0)),
        ("duel with one vote each", World("duel", 0.0, votes=1.0, lean=0.0, taste=0.0)),
        ("direct", World("direct", 0.0)),
    ]
    for number, (name, world) in enumerate(equal):
        shares = _shares(outcomes(world, runs, number * SEEDS))
        print(f"Equal policies, {name}: {shares}")
        check(f"false rollbacks, {name}", shares["rollback"], 0.05)
        check(f"false promotions, {name}", shares["promote"], 0.05)
    for number, mode in enumerate(("canary", "duel"), len(equal)):
        world = World(mode, -0.05, taste=0.0, margin=0.05)  # type: ignore[arg-type]
        shares = _shares(outcomes(world, runs, number * SEEDS))
        print(f"Worse by the margin, {mode}: {shares}")
        check(f"promoted though worse by the margin, {mode}", shares["promote"], 0.05)

    votes_of: dict[str, list[int]] = {}
    per_arm = (1.645 + 1.645) ** 2 * (0.55 * 0.45 + 0.45 * 0.55) / 0.1**2
    fixed = 2 * ceil(per_arm)
    for number, mode in enumerate(("canary", "duel"), 10):
        world = World(mode, -0.1, lean=0.0, taste=0.0, votes=1.0, most=2 * MOST_PEOPLE)  # type: ignore[arg-type]
        found = outcomes(world, max(runs // 4, 20), number * SEEDS)
        votes_of[mode] = [each.votes for each in found]
        print(
            f"10 points worse, {mode}: {_shares(found)}, votes {np.percentile(votes_of[mode], [5, 50, 95])}"
        )
    late = float(np.mean([votes > 2 * fixed for votes in votes_of["canary"]]))
    print(f"A test with one look needs {fixed} votes.")
    check("share of canaries that took more than twice as many", late, 0.05)
    ratio = float(np.median(votes_of["duel"]) / np.median(votes_of["canary"]))
    check("a duel's votes, as a share of the canary's", ratio, 0.5)

    small = outcomes(World("duel", 0.15, votes=1.5, most=30 * 14), 200, 20 * SEEDS)
    days = [ceil(each.votes / 30) if each.action == "promote" else 15 for each in small]
    print(
        f"30 conversations a day, 15 points better: {_shares(small)}, days {np.percentile(days, [5, 50, 95])}"
    )
    check("days to a duel's verdict, median", float(np.median(days)), 10)
    print(f"Missed: {', '.join(missed)}" if missed else "All targets reached.")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
