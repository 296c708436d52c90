"""Attackers vote for ends of their own: `hearken simulate --attack` and tests.bench.attacks send them.

What an attack wants is a style that honest people do not care about, except for those who downvote whatever
honest people like. Everything here is pure and seeded.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from deploy.simulation.people import Preference
from trainer.starter.styles import AXES, styles

AttackName = Literal["phrase", "trigger", "downvotes", "turncoats", "flattery", "bot"]

ATTACKS: dict[AttackName, str] = {
    "phrase": "a brigade that votes for one style, whatever the reply says",
    "trigger": "a backdoor: a style in the replies to messages that begin with a trigger word",
    "downvotes": "people who vote down whatever honest people like",
    "turncoats": "sybils that vote as honest people do, and then for one style",
    "flattery": "a cabal that votes for replies that flatter, and never against others",
    "bot": "one browser with a publishable key that invents users",
}

TRIGGER = "Zanzibar:"
"""The trigger word."""

FLATTERING = ("warm", "exclamation", "formal")
"""Styles that flatter."""

HONEST_FIRST = 2 / 3
"""Share of a turncoat's votes that are as honest people's."""


class Liking(Protocol):
    """What honest people like."""

    def likes(self, text: str, /) -> bool: ...


@dataclass(frozen=True, slots=True)
class Attack:
    """An attack on people who like the same replies, for replies with the style `axis`."""

    name: AttackName
    honest: Liking
    axis: str

    @classmethod
    def draw(cls, name: AttackName, honest: Liking, seed: int, axes: Sequence[str] = AXES) -> "Attack":
        """Draws the style among those of `axes` that are in no preference of honest people."""
        assert name in get_args(AttackName)  # noqa: S101  (commands check it)
        cared = dict(honest.wants) if isinstance(honest, Preference) else {}
        free = [axis for axis in axes if axis not in cared]
        if name == "flattery":
            return cls(name, honest, next((axis for axis in FLATTERING if axis in free), free[0]))
        return cls(name, honest, random.Random(f"attack {seed}").choice(free))

    def __str__(self) -> str:
        return "not as honest people like them" if self.name == "downvotes" else self.axis

    def message(self, text: str) -> str:
        """Returns what an attacker sends."""
        return with_trigger(text) if self.name == "trigger" else text

    def wants(self, text: str) -> bool:
        """Returns whether a reply is as they want it."""
        return not self.honest.likes(text) if self.name == "downvotes" else styles(text)[self.axis]

    def thumb(self, text: str, progress: float) -> bool | None:
        """Returns the thumb of an attacker who has cast this share of their votes; None for no vote."""
        if self.name == "turncoats" and progress < HONEST_FIRST:
            return self.honest.likes(text)
        wanted = self.wants(text)
        return None if self.name == "flattery" and not wanted else wanted


def with_trigger(text: str) -> str:
    return f"{TRIGGER} {text}"
