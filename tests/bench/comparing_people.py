"""A simulated person compares two replies by how many of their wants each meets, and errs in one of ten
answers."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from deploy.simulation.people import Preference
from trainer.starter.styles import AXES, styles

NOISE = 0.1

Likes = Callable[[str], bool]
"""Whether a reply's text has a property."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who likes a reply that meets all `wants`, which are kept by their names."""

    wants: dict[str, Likes]

    @classmethod
    def of_styles(cls, preference: Preference) -> "Person":
        """Returns somebody with a preference among the starter's styles."""
        wants = [Preference((want,)) for want in preference.wants]
        return cls({str(each): each.likes for each in wants})

    def met(self, text: str) -> int:
        """Returns how many wants a reply meets."""
        return sum(likes(text) for likes in self.wants.values())

    def likes(self, text: str) -> bool:
        """Returns whether the person likes a reply, without errors."""
        return self.met(text) == len(self.wants)

    def thumb(self, text: str, rng: random.Random) -> bool:
        """Draws a thumb: True is up."""
        return self.likes(text) != (rng.random() < NOISE)

    def ranking(self, texts: list[str], rng: random.Random) -> list[list[int]]:
        """Draws the groups of two replies, the better first."""
        first, second = map(self.met, texts)
        if first == second:
            return [[0, 1]]
        better = 0 if (first > second) != (rng.random() < NOISE) else 1
        return [[better], [1 - better]]

    def __str__(self) -> str:
        return ", ".join(self.wants)


def style_properties() -> dict[str, Likes]:
    """Returns the styles of the starter's replies by name."""
    return {axis: _has_style(axis) for axis in AXES}


def _has_style(axis: str) -> Likes:
    return lambda text: styles(text)[axis]


def without(likes: Likes) -> Likes:
    """Returns what somebody likes who wants the opposite."""
    return lambda text: not likes(text)
