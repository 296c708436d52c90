"""Simulated users have a hidden preference, on which they base their votes, rankings and edits.

All users of a simulation share one preference, a conjunction of three values on the eight style axes, drawn
uniformly from all 448. They like a reply if all three hold, and dislike it otherwise: no partial credit
guides the learner, and wrong facts do not count (knowledge is measured apart). Each person errs at rates of
their own, and one in twenty votes against the preference. Everything here is pure and seeded; `edits`
rewrites replies, `visits` reaches the service.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product

from deploy.simulation.edits import rewrite
from trainer.starter.styles import AXES, styles

AXES_PER_PREFERENCE = 3
MAX_NOISE = 0.1
MAX_LENIENCY = 0.15
PEOPLE_PER_CONTRARIAN = 20


@dataclass(frozen=True, slots=True)
class Preference:
    """A simulated preference: a conjunction of style axes. `wants` pairs each axis with its wanted value."""

    wants: tuple[tuple[str, bool], ...]

    def likes(self, text: str) -> bool:
        """Returns the true approval of a reply, without anyone's errors."""
        found = styles(text)
        return all(found[axis] == value for axis, value in self.wants)

    def inverted(self) -> "Preference":
        """Returns the preference for the opposite value on each of the same axes."""
        return Preference(tuple((axis, not value) for axis, value in self.wants))

    def __str__(self) -> str:
        return ", ".join(axis if value else f"not {axis}" for axis, value in self.wants)


@cache
def all_preferences() -> tuple[Preference, ...]:
    """Returns all 448 preferences: 56 choices of three axes, times 8 combinations of values."""
    return tuple(
        Preference(tuple(zip(axes, values, strict=True)))
        for axes in combinations(AXES, AXES_PER_PREFERENCE)
        for values in product((True, False), repeat=AXES_PER_PREFERENCE)
    )


def draw_preference(seed: int) -> Preference:
    """Draws a preference uniformly from all of them; the same seed gives the same one."""
    return random.Random(f"taste {seed}").choice(all_preferences())  # the string is part of the seed


@dataclass(frozen=True, slots=True)
class Person:
    """A simulated user.

    `leniency` above zero is the probability of approving a reply that they dislike; below zero, its absolute
    value is the probability of rejecting one that they like. After that, `noise` is the probability that the
    vote is flipped. A contrarian votes against the preference.
    """

    name: str
    preference: Preference
    noise: float
    leniency: float
    contrarian: bool

    def thumb(self, text: str, rng: random.Random) -> bool:
        """Draws a thumb: True is up."""
        return self.verdict(self.preference.likes(text), rng)

    def verdict(self, liked: bool, rng: random.Random) -> bool:
        """Draws the thumb on a reply that all like, or that all dislike."""
        up = liked != self.contrarian
        if rng.random() < abs(self.leniency):
            up = self.leniency > 0
        return up != (rng.random() < self.noise)

    def ranking(self, texts: Sequence[str], rng: random.Random) -> tuple[list[list[int]], bool]:
        """Draws a thumb for each reply, and returns the groups of a ranking, those with thumbs up first, and
        whether any reply is acceptable."""
        up = [self.thumb(text, rng) for text in texts]
        groups = [[index for index, liked in enumerate(up) if liked is value] for value in (True, False)]
        return [group for group in groups if group], any(up)

    def edit(self, text: str, keep: Sequence[str], rng: random.Random) -> str:
        """Rewrites a reply to their preference. One of the answers in `keep` stays in it, if it was there."""
        preference = self.preference.inverted() if self.contrarian else self.preference
        return rewrite(text, dict(preference.wants), keep, rng)


def draw_people(seed: int, users: int) -> list[Person]:
    """Draws `users` people who share one preference; one in twenty (rounded down) is a contrarian."""
    rng = random.Random(f"crowd {seed}")
    preference = draw_preference(seed)
    contrarians = set(rng.sample(range(users), users // PEOPLE_PER_CONTRARIAN))
    return [
        Person(
            name=f"person-{seed}-{index}",
            preference=preference,
            noise=rng.uniform(0, MAX_NOISE),
            leniency=rng.uniform(-MAX_LENIENCY, MAX_LENIENCY),
            contrarian=index in contrarians,
        )
        for index in range(users)
    ]
