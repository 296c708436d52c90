"""People with hidden tastes: who they are, what they like, and how they vote.

A crowd shares one taste, a conjunction of three values on the eight style axes, drawn uniformly from all
448 of them. A reply is liked when all three hold and not otherwise: there is no half-liking to guide a
learner, and a wrong fact is nobody's concern (knowledge is measured apart). Each person errs in a way of
their own, and a few vote against what everybody else likes. Everything here is pure and seeded; how people
reword a reply is in `edits`, how they reach the service in `simulate`.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

from deploy.simulation.edits import rewrite
from trainer.starter.styles import AXES, styles

AXES_OF_A_TASTE = 3
MOST_NOISE = 0.1
MOST_LENIENCY = 0.15
PEOPLE_PER_CONTRARIAN = 20


@dataclass(frozen=True, slots=True)
class Taste:
    """What a crowd likes: every one of `wants`, pairs of an axis and whether it must hold."""

    wants: tuple[tuple[str, bool], ...]

    def likes(self, text: str) -> bool:
        """The true approval of a reply, without anyone's errors."""
        found = styles(text)
        return all(found[axis] == value for axis, value in self.wants)

    def inverted(self) -> "Taste":
        """The same axes, each the other way round."""
        return Taste(tuple((axis, not value) for axis, value in self.wants))

    def __str__(self) -> str:
        return ", ".join(axis if value else f"not {axis}" for axis, value in self.wants)


def family() -> Iterator[Taste]:
    """Every taste there is: 56 choices of three axes times 8 values."""
    for axes in combinations(AXES, AXES_OF_A_TASTE):
        for values in product((True, False), repeat=AXES_OF_A_TASTE):
            yield Taste(tuple(zip(axes, values, strict=True)))


def draw_taste(seed: int) -> Taste:
    """A taste at random from the whole family; the same for the same seed."""
    return random.Random(f"taste {seed}").choice(list(family()))


@dataclass(frozen=True, slots=True)
class Person:
    """Someone who chats and votes.

    `leniency` above zero is the chance to let pass a reply that they do not like, below zero (negated) to
    find fault with one that they do; after that, `noise` is the chance that the vote is not what they
    meant. A contrarian votes against the taste.
    """

    name: str
    taste: Taste
    noise: float
    leniency: float
    contrarian: bool

    def thumb(self, text: str, rng: random.Random) -> bool:
        """Whether they vote the reply up."""
        up = self.taste.likes(text) != self.contrarian
        if rng.random() < abs(self.leniency):
            up = self.leniency > 0
        return up != (rng.random() < self.noise)

    def ranking(self, texts: Sequence[str], rng: random.Random) -> tuple[list[list[int]], bool]:
        """Groups of replies, best first, and whether any is acceptable: the ones that they would have
        voted up before the others, those that they judge equal together."""
        up = [self.thumb(text, rng) for text in texts]
        groups = [[index for index, liked in enumerate(up) if liked is value] for value in (True, False)]
        return [group for group in groups if group], any(up)

    def edit(self, text: str, keep: Sequence[str], rng: random.Random) -> str:
        """What the reply should have said, with one of the answers in `keep` left in it if it was there."""
        taste = self.taste.inverted() if self.contrarian else self.taste
        return rewrite(text, dict(taste.wants), keep, rng)


def crowd(seed: int, users: int) -> list[Person]:
    """`users` people who share one taste; one in twenty (rounded down) is a contrarian."""
    rng = random.Random(f"crowd {seed}")
    taste = draw_taste(seed)
    contrarians = set(rng.sample(range(users), users // PEOPLE_PER_CONTRARIAN))
    return [
        Person(
            name=f"person-{seed}-{index}",
            taste=taste,
            noise=rng.uniform(0, MOST_NOISE),
            leniency=rng.uniform(-MOST_LENIENCY, MOST_LENIENCY),
            contrarian=index in contrarians,
        )
        for index in range(users)
    ]
