"""Hidden tastes on everyday replies: each likes or dislikes a reply by its text alone.

A taste is a property that a reply has or has not, or a measure of its text that must be on one side of a
threshold. Thresholds come from the base's own replies (the middle of ROOM), so that every base has replies to
either side. A taste is used only where the base's approval leaves room.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

ROOM = (0.2, 0.6)
"""Least and largest approval of the base that leaves room for learning."""

_PREAMBLE = re.compile(
    r"\W*(sure|certainly|of course|absolutely|great|good question|i['’]m|i am|i['’]d|as an?|hello|hi|hey"
    r"|thank|thanks|here (are|is)|here['’]s|that['’]s|that is|what a|to answer|yes|well|okay|ok)(?!\w)",
    re.IGNORECASE,
)
_LIST = re.compile(r"^\s*([-*•]|\d+[.)])\s", re.MULTILINE)
_CONCRETE = re.compile(r"\d|for example|for instance|such as|e\.g\.", re.IGNORECASE)
_YOU = re.compile(r"\byou(r|rs|rself|'re|’re|'ll|’ll)?\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Taste:
    """`asks_for_length` tells whether replies that it likes are longer or shorter by its nature."""

    name: str
    likes: Callable[[str], bool]
    asks_for_length: bool = False

    def __str__(self) -> str:
        return self.name

    def approval(self, texts: Sequence[str]) -> float:
        """Returns the share of replies that it likes."""
        return sum(map(self.likes, texts)) / len(texts)


def words(text: str) -> list[str]:
    return re.findall(r"[\w’']+", text)


def words_per_sentence(text: str) -> float:
    """Returns the mean number of words of a sentence or line."""
    lengths = [len(words(piece)) for piece in re.split(r"[.!?:]+\s|\n", text)]
    sentences = [length for length in lengths if length > 0]
    return sum(sentences) / max(1, len(sentences))


def letters_per_word(text: str) -> float:
    found = words(text)
    return sum(map(len, found)) / max(1, len(found))


def you_per_word(text: str) -> float:
    """Returns how often the reader is addressed, for each word."""
    return len(_YOU.findall(text)) / max(1, len(words(text)))


_PROPERTIES: dict[str, Callable[[str], bool]] = {
    "concrete": lambda text: bool(_CONCRETE.search(re.sub(_LIST, "", text))),
    "no list": lambda text: not _LIST.search(text),
    "no exclamation mark": lambda text: "!" not in text,
    "no preamble": lambda text: not _PREAMBLE.match(text),
    "asks back": lambda text: "?" in text,
}
_MEASURES: dict[str, tuple[Callable[[str], float], int]] = {
    "short sentences": (words_per_sentence, -1),
    "plain words": (letters_per_word, -1),
    "speaks to me": (you_per_word, 1),
    "brief": (lambda text: len(words(text)), -1),
}
"""Measures and the side of the threshold that is liked."""

_ASK_FOR_LENGTH = {"brief", "asks back"}


def tastes(base: Sequence[str]) -> dict[str, Taste]:
    """Returns all tastes by name; `base` are replies of the base, which set the thresholds."""
    found = {name: Taste(name, likes, name in _ASK_FOR_LENGTH) for name, likes in _PROPERTIES.items()}
    for name, (measure, side) in _MEASURES.items():
        found[name] = Taste(name, _beyond(measure, side, base), name in _ASK_FOR_LENGTH)
    return found


def _beyond(measure: Callable[[str], float], side: int, base: Sequence[str]) -> Callable[[str], bool]:
    values = sorted(side * measure(text) for text in base)
    threshold = values[int(len(values) * (1 - sum(ROOM) / 2))]
    return lambda text: side * measure(text) >= threshold


def with_room(base: Sequence[str]) -> dict[str, Taste]:
    """Returns the tastes for which the base's approval lies within ROOM."""
    least, most = ROOM
    return {name: each for name, each in tastes(base).items() if least <= each.approval(base) <= most}


def draw(seed: int, choice: dict[str, Taste]) -> Taste:
    """Draws one of the tastes; the same seed gives the same one. Raises ValueError when there is none."""
    if not choice:
        raise ValueError("no taste leaves room: this base's replies are all liked or all disliked")
    return choice[random.Random(f"everyday taste {seed}").choice(sorted(choice))]
