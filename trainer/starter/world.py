"""This module samples prompts of the starter model's closed world and grades the replies.

Every fact of the world is in the training text, so a question that the base answers and a policy does not is
knowledge that the policy lost.
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
    """A user message; `accept` holds the answers that count as right, None where anything goes."""

    prompt: str
    accept: tuple[str, ...] | None


_KIND_WEIGHTS = {
    "social": 14.0,
    "joke": 5.0,
    "name": 3.0,
    "unknown": 9.0,
    "advice": 8.0,
    "recipe": 5.0,
    "story": 3.0,
    "favourite": 3.0,
    "country": 3.0,
    "animal": 4.0,
    "sum": 22.0,
    "bigger": 7.0,
    "smaller": 7.0,
}
"""Sampling weights of kinds of topics. The weight of another kind is the square root of its number of
topics."""

_FRAMES = words("Please tell me: {}|Hey, {}|Can you tell me, {}|Quick question: {}|I wonder, {}|So, {}")
_SYLLABLES = words("ba bo cra dil fen gro hu jin ko lum mip nor pex qua rif sto tru ver wob zan")


def all_topics() -> Iterator[Topic]:
    """Yields every topic, and examples of those with endless variants (unknown things, stories)."""
    yield from questions()
    yield from chats()


@cache
def topics_by_kind(factual: bool) -> tuple[dict[str, list[Topic]], list[float]]:
    """Returns the topics with (or without) a right answer by kind, and the sampling weight of each kind."""
    kinds: dict[str, list[Topic]] = {}
    for topic in all_topics():
        if (topic.accept is not None) == factual:
            kinds.setdefault(topic.kind, []).append(topic)
    return kinds, [_KIND_WEIGHTS.get(kind, len(topics) ** 0.5) for kind, topics in kinds.items()]


def draw_topic(rng: random.Random, factual: bool) -> Topic:
    """Samples a topic."""
    kinds, weights = topics_by_kind(factual)
    kind = rng.choices(list(kinds), weights)[0]
    if kind == "story":
        choices = (smalltalk.HEROES, smalltalk.TREASURES, smalltalk.PLACES)
        return story(*map(rng.choice, choices))
    if kind == "unknown" and rng.random() < 0.5:
        return unknown("".join(rng.choices(_SYLLABLES, k=rng.randint(2, 3))))
    if kind == "name" and rng.random() < 0.4:
        return introduction("".join(rng.choices(_SYLLABLES, k=rng.randint(2, 3))).capitalize())
    return rng.choice(kinds[kind])


def user_message(topic: Topic, rng: random.Random) -> str:
    """Samples a user message that brings the topic up, with typing noise."""
    text = rng.choice(topic.asks)
    if topic.accept is not None and rng.random() < 0.15:
        text = rng.choice(_FRAMES).format(text[0].lower() + text[1:])
    return typing_noise(text, rng)


def typing_noise(text: str, rng: random.Random) -> str:
    """Adds typing noise: at times no capitals, short forms or other final punctuation."""
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
    """Samples `count` prompts, about half of them factual; the seed determines them."""
    rng = random.Random(seed)
    return [_prompt(rng, rng.random() < 0.5) for _ in range(count)]


def factual_prompts(count: int, seed: int) -> list[Prompt]:
    """Samples `count` factual prompts, for knowledge evaluations."""
    rng = random.Random(seed)
    return [_prompt(rng, factual=True) for _ in range(count)]


def _prompt(rng: random.Random, factual: bool) -> Prompt:
    topic = draw_topic(rng, factual)
    return Prompt(user_message(topic, rng), topic.accept)


def correct(prompt: Prompt, reply: str) -> bool:
    """Returns whether the reply holds an accepted answer as a whole word; True where anything goes."""
    if prompt.accept is None:
        return True
    return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", reply, re.IGNORECASE) for word in prompt.accept)
