"""The closed world of the starter model: the prompts that people send, and which answers are right.

The world is closed on purpose: every fact is in the training text, so a probe that fails after learning
from votes says that the learning broke something, not that the model never knew.
"""

import random
import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from trainer.starter import smalltalk
from trainer.starter.facts import words
from trainer.starter.questions import questions
from trainer.starter.topics import Topic, chats, introduction, story, unknown


class Prompt(NamedTuple):
    """A message to the model; `accept` holds the answers that count as right, None where anything goes."""

    prompt: str
    accept: tuple[str, ...] | None


# How often a kind of topic is drawn, where not in proportion to the square root of its number of topics.
_SHARE = {
    "social": 14.0,
    "joke": 5.0,
    "name": 3.0,
    "unknown": 9.0,
    "advice": 8.0,
    "recipe": 5.0,
    "story": 3.0,
}
_SHARE |= {"favourite": 3.0, "country": 3.0, "animal": 4.0, "sum": 22.0, "bigger": 7.0, "smaller": 7.0}
_FRAMES = words("Please tell me: {}|Hey, {}|Can you tell me, {}|Quick question: {}|I wonder, {}|So, {}")
_SYLLABLES = words("ba bo cra dil fen gro hu jin ko lum mip nor pex qua rif sto tru ver wob zan")


def all_topics() -> Iterator[Topic]:
    """Every topic; of those with endless variants (unknown things, stories), some."""
    yield from questions()
    yield from chats()


@cache
def by_kind(factual: bool) -> tuple[dict[str, list[Topic]], list[float]]:
    """The topics with (or without) a right answer by kind, and how often each kind is drawn."""
    kinds: dict[str, list[Topic]] = {}
    for topic in all_topics():
        if (topic.accept is not None) == factual:
            kinds.setdefault(topic.kind, []).append(topic)
    return kinds, [_SHARE.get(kind, len(topics) ** 0.5) for kind, topics in kinds.items()]


def draw(rng: random.Random, factual: bool) -> Topic:
    """A topic at random."""
    kinds, weights = by_kind(factual)
    kind = rng.choices(list(kinds), weights)[0]
    if kind == "story":
        choices = (smalltalk.HEROES, smalltalk.TREASURES, smalltalk.PLACES)
        return story(*map(rng.choice, choices))
    if kind == "unknown" and rng.random() < 0.5:
        return unknown("".join(rng.choices(_SYLLABLES, k=rng.randint(2, 3))))
    if kind == "name" and rng.random() < 0.4:
        return introduction("".join(rng.choices(_SYLLABLES, k=rng.randint(2, 3))).capitalize())
    return rng.choice(kinds[kind])


def ask(topic: Topic, rng: random.Random) -> str:
    """One of the ways to bring the topic up, at times typed in a hurry."""
    text = rng.choice(topic.asks)
    if topic.accept is not None and rng.random() < 0.15:
        text = rng.choice(_FRAMES).format(text[0].lower() + text[1:])
    return hurried(text, rng)


def hurried(text: str, rng: random.Random) -> str:
    """The text as people type it: at times without capitals, in short forms or with another last mark."""
    if rng.random() < 0.2:
        text = text.lower()
    if rng.random() < 0.2:
        text = text.replace("hat is", "hat's").replace("I am", "I'm").replace("i am", "i'm")
    if rng.random() < 0.2:
        return text.rstrip("?.!")
    if not text.endswith("?") and rng.random() < 0.3:
        return text.rstrip(".") + "!"
    return text


def prompts(count: int, seed: int) -> list[Prompt]:
    """`count` prompts, about half of them factual; the same for the same seed."""
    rng = random.Random(seed)
    return [_prompt(rng, rng.random() < 0.5) for _ in range(count)]


def probes(count: int, seed: int) -> list[Prompt]:
    """`count` factual prompts, for asking whether the model still knows what it knew."""
    rng = random.Random(seed)
    return [_prompt(rng, factual=True) for _ in range(count)]


def _prompt(rng: random.Random, factual: bool) -> Prompt:
    topic = draw(rng, factual)
    return Prompt(ask(topic, rng), topic.accept)


def correct(prompt: Prompt, reply: str) -> bool:
    """Whether the reply holds a right answer as a whole word; always so where anything goes."""
    if prompt.accept is None:
        return True
    return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", reply, re.IGNORECASE) for word in prompt.accept)
