"""This bench simulates how soon people's votes put a candidate live, and how good the live policy gets.

    python -m tests.bench.going_live

A site of 12, 40 or 200 people with a vote a second, three in four of them thumbs, each in a conversation of
its own. A round every 75 seconds makes a candidate of all votes so far, whose approval grows with their
number from BASE to BEST; people lean by LEAN. What the gate cannot judge is tried: `serving.rollout_decision`
decides on the evidence as serving reads it. Compared are half of the conversations and half of the people as
the candidate's share, and trials that make room for each newer candidate after 40 people, for one from twice
as many votes, or for none. Figures of 60 runs of ten minutes: those in which nothing went live, the median
second at which the first candidate did, and the mean approval of what is live in the end. Target with 40
people and serving's own rules: nothing live in at most a tenth of the runs. Half a minute.
"""

import json
import random
import statistics
import sys
from collections import defaultdict
from math import exp
from typing import NamedTuple

from serving.comparison import Comparison, between_groups
from serving.rollout_decision import Evidence, Rules, decide

VOTES, ROUND_SECONDS, MIN_VOTES, RUNS, SHARE, THUMBS = 600, 75, 40, 60, 0.5, 0.75
BASE, BEST, LEAN = 0.5, 0.92, 0.15
VOTES_TO_LEARN = 180
"""Votes after which a candidate has 63% of what there is to gain."""

EVERY = 5
"""Seconds between two evaluations."""

_ALIKE = Comparison(0.0, 0.02, 0.5, 0.5, 100, 100)
_OTHERS = dict.fromkeys(("regenerations", "errors", "latency", "length"), _ALIKE)

Thumbs = dict[tuple[str, bool], list[bool]]
"""Thumbs by person, and by whether the reply was the candidate's."""


class Way(NamedTuple):
    """How candidates are tried: whether a person's conversations are drawn each by itself, and which newer
    candidate takes the place of one that people have not decided about."""

    name: str
    by_conversation: bool
    newer: str


WAYS = (
    Way("half of the conversations, from twice as many votes", True, "doubled"),
    Way("half of the people, from twice as many votes", False, "doubled"),
    Way("half of the conversations, none", True, "none"),
    Way("half of the people, any after 40 people", False, "any"),
)


def approval(votes: int) -> float:
    """Returns the approval of a policy that learned from so many votes."""
    return BASE + (BEST - BASE) * (1 - exp(-votes / VOTES_TO_LEARN))


def compared(thumbs: Thumbs) -> Comparison | None:
    rows = list(thumbs.items())
    if not rows:
        return None
    people, sides = zip(*thumbs, strict=True)
    return between_groups(people, sides, [1] * len(rows), [statistics.fmean(found) for _, found in rows])


def run(way: Way, people: int, seed: int) -> tuple[int | None, float]:
    """Returns the second at which the first candidate went live, and the approval of what is live in the
    end."""
    rng = random.Random(f"going live {people} {seed}")
    lean = [rng.gauss(0, LEAN) for _ in range(people)]
    arm = [rng.random() < SHARE for _ in range(people)]
    live, first = 0, None
    tried: int | None = None
    waiting: int | None = None
    thumbs: Thumbs = defaultdict(list)
    for second in range(1, VOTES + 1):
        if second >= MIN_VOTES and second % ROUND_SECONDS == 0:
            waiting = second
        if tried is None and waiting is not None:
            tried, waiting = waiting, None
            thumbs.clear()
        person, conversation, votes, likes = (
            rng.randrange(people), rng.random() < SHARE, rng.random() < THUMBS, rng.random(),
        )  # fmt: skip
        if tried is None:
            continue
        own = conversation if way.by_conversation else arm[person]
        if votes:
            thumbs[f"u{person}", own].append(likes < approval(tried if own else live) + lean[person])
        if second % EVERY:
            continue
        evidence = Evidence("canary", "candidate", "live", {"approval": compared(thumbs), **_OTHERS})
        room = {"none": False, "any": evidence.voters >= 40, "doubled": (waiting or 0) >= 2 * tried}
        action, _ = decide(evidence, Rules(newer=waiting is not None and room[way.newer]))
        if action == "promote":
            live, tried, first = tried, None, first or second
        elif action != "wait":
            tried = None
    return first, approval(live)


def main() -> int:
    print(f"{'tried by, and makes room for':<52} {'people':>6} {'never':>6} {'first':>7} {'in the end':>10}")
    never = {}
    for people in (12, 40, 200):
        for way in WAYS:
            found = [run(way, people, seed) for seed in range(RUNS)]
            missing = sum(first is None for first, _ in found) / RUNS
            middle = statistics.median(first or float("inf") for first, _ in found)
            end = statistics.fmean(each for _, each in found)
            shown = "-" if middle == float("inf") else f"{middle:.0f} s"
            print(f"{way.name:<52} {people:>6} {missing:>6.0%} {shown:>7} {end:>10.1%}", flush=True)
            never[people, way] = missing
    figures = {"never_live": never[40, WAYS[0]], "never_live_before": never[40, WAYS[-1]]}
    print(json.dumps(figures))
    return 0 if figures["never_live"] <= 0.1 else 1


if __name__ == "__main__":
    sys.exit(main())
