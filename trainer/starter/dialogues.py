"""This module is the grammar that generates the starter model's training dialogues.

A reply consists of an opening, the answer, further sentences where it is long, and a closing. Every style can
show in several of these places, so all 256 combinations of the eight axes read naturally. The style of each
reply is sampled independently of the dialogue, so the model cannot predict it.
"""

import random
from collections.abc import Iterator
from typing import NamedTuple

from trainer.starter import phrases, smalltalk
from trainer.starter.facts import words
from trainer.starter.styles import AXES, SHORT_WORDS, styles
from trainer.starter.topics import Topic
from trainer.starter.world import draw_topic, topics_by_kind, typing_noise, user_message

Style = dict[str, bool]


class Message(NamedTuple):
    """A message of a dialogue."""

    role: str
    content: str


def draw_style(rng: random.Random) -> Style:
    """Samples a style, each axis independently with probability one half."""
    return {axis: rng.random() < 0.5 for axis in AXES}


def reply(topic: Topic, want: Style, rng: random.Random) -> str:
    """Samples a reply on the topic whose `styles` equal `want` (rejection sampling). Raises ValueError if
    none is found."""
    for _ in range(400):
        text = _compose(topic, want, rng)
        if styles(text) == want:
            return text
    raise ValueError(f"no reply on {topic.kind} {topic.says[0]!r} in the style {want}")


def _compose(topic: Topic, want: Style, rng: random.Random) -> str:
    formal, warm, short = want["formal"], want["warm"], want["short"]
    hedges = ["before", "after", "closer"] if topic.hedgeable else ["closer"]
    hedge = rng.choice(hedges) if want["hedging"] else ""
    formal_first, warm_first = rng.random() < 0.5, rng.random() < 0.5
    social = topic.kind in ("social", "name", "recall", "unknown")
    openers = phrases.OPENERS[social or topic.kind in ("more", "sure", "joke", "story")]
    opener = rng.choice(openers[formal and formal_first, warm and warm_first])
    in_closer = (hedge == "closer", formal and not formal_first, warm and not warm_first)
    closers = [text for text in phrases.CLOSERS[want["question"]][in_closer] if _fits(text, topic, social)]
    closer = rng.choice(closers)
    exclaimed = rng.sample(range(3), rng.choice((1, 1, 2))) if want["exclamation"] else []

    core = _core(topic, want, hedge, rng)
    body = [_sentence(opener, "!" if 0 in exclaimed else ".")] if opener else []
    body.append(_sentence(core, "!" if 1 in exclaimed else ":" if want["list"] else "."))
    mark = "?" if want["question"] else "!" if 2 in exclaimed else "."
    closing = [_sentence(closer, mark)] if closer else []

    notes, items = _details(topic, want, core, rng)
    fillers = rng.sample(phrases.FILLERS, len(phrases.FILLERS))
    min_words = 0 if short else SHORT_WORDS + rng.randint(1, 5)
    while len(" ".join([*body, *items, *closing]).split()) + len(items) < min_words:
        if notes:
            named = topic.subject and topic.subject.lower() in " ".join(body).lower()
            subject = "it" if named else topic.subject
            body.append(_sentence(f"{subject} {notes.pop()}".strip(), "."))
        elif want["list"]:
            closing.insert(0, _sentence(fillers.pop(), "."))
        else:
            body.append(_sentence(fillers.pop(), "."))
    listed = "".join(f"\n- {item}" for item in items) + ("\n" if items else " ")
    return _finish(" ".join(body) + listed + " ".join(closing), topic, want, rng)


def _core(topic: Topic, want: Style, hedge: str, rng: random.Random) -> str:
    """Samples the clause that answers, hedged before or after it if wanted."""
    core = rng.choice(topic.says[:1] if want["short"] and rng.random() < 0.5 else topic.says)
    if want["list"] and topic.lead:
        core = topic.lead
    if hedge == "before":
        core = f"{rng.choice(phrases.HEDGE_BEFORE[want['formal']])} {core}"
    if hedge == "after":
        core += rng.choice(phrases.HEDGE_AFTER[want["formal"]])
    return core


def _details(topic: Topic, want: Style, core: str, rng: random.Random) -> tuple[list[str], list[str]]:
    """Samples the notes for further sentences, or the items of a list if one is wanted."""
    notes = list(topic.items if want["list"] and topic.items else topic.notes)
    notes = [note for note in notes if note not in core] or rng.sample(smalltalk.OFFERS, 4)
    if notes != list(topic.items):
        rng.shuffle(notes)
    if want["list"]:
        count = 4 if not want["short"] or topic.items else rng.choice((1, 2, 2))
        return [], [note.removeprefix("is ") for note in notes[:count]]
    return (notes if topic.notes else []), []


def _finish(text: str, topic: Topic, want: Style, rng: random.Random) -> str:
    """Adds contractions and an emoji, and fills in the placeholders."""
    if not want["formal"] and rng.random() < 0.7:
        for long_form, contraction in phrases.CONTRACTIONS:
            text = text.replace(long_form, contraction)
    offer, also = rng.sample(smalltalk.OFFERS, 2)
    text = text.strip().replace("{topic}", topic.entity).replace("{offer}", offer).replace("{also}", also)
    if want["emoji"]:
        text += " " + (topic.emoji if topic.emoji and rng.random() < 0.4 else rng.choice(phrases.EMOJI))
    return text


def _fits(closer: str, topic: Topic, social: bool) -> bool:
    if "{topic}" in closer and not topic.entity:
        return False
    return not (social and any(words in closer for words in phrases.NOT_SOCIAL))


def _sentence(text: str, mark: str) -> str:
    text = text[0].upper() + text[1:]
    return text if text.endswith("?") else text + mark


_MORE = words(
    "Tell me more|More please|Go on|Yes please, more|Yes|Sure, go on|Another one|What else?|And then?"
)
_THANKS = ("Thanks", "Thank you", "Great, thanks", "Thanks a lot", "Okay, thank you")
_SURE = ("Are you sure?", "Really?", "Is that right?", "Are you certain?")
_ABOUT = ("And {}?", "{}?", "What about {}?", "And what about {}?", "How about {}?")


def follow_up(topic: Topic, rng: random.Random) -> tuple[str, Topic] | None:
    """Samples a user message that follows a reply on the topic, and the topic of the answer; None for a new
    topic."""
    kind = rng.choice(("more", "more", "thanks", "sure", "about", "about"))
    if kind == "thanks":
        thanked = ("you are welcome", "any time", "it was nothing")
        notes = (
            f"ask me about {topic.entity} again" if topic.entity else "ask me again",
            "try another question",
        )
        return rng.choice(_THANKS), Topic(
            "social", (), thanked, notes=(*notes, "come back any time"), emoji="👍"
        )
    if kind == "sure" and topic.accept is not None and topic.kind != "sure":
        sure = tuple(f"yes, {clause}" for clause in topic.says)
        return rng.choice(_SURE), topic._replace(kind="sure", says=sure)
    if kind == "about" and topic.entity:
        other = rng.choice(topics_by_kind(topic.accept is not None)[0].get(topic.kind, [topic]))
        return (rng.choice(_ABOUT).format(other.entity), other) if other.entity != topic.entity else None
    if kind == "more" and topic.kind == "joke":
        return rng.choice(_MORE), rng.choice(topics_by_kind(False)[0]["joke"])
    if (
        kind == "more"
        and (topic.subject or topic.kind in ("advice", "recipe"))
        and topic.kind not in ("more", "sure")
    ):
        more = tuple(f"{topic.subject} {note}".strip() for note in topic.notes)
        return rng.choice(_MORE), topic._replace(kind="more", says=more, accept=None)
    return None


def dialogue(rng: random.Random) -> list[Message]:
    """Samples a conversation of one to twelve exchanges, at times with a system prompt."""
    messages = [Message("system", rng.choice(smalltalk.SYSTEM))] if rng.random() < 0.12 else []
    topic: Topic | None = None
    name = ""
    for _ in range(rng.choices((1, 2, 3, 5, 12), (50, 27, 14, 7, 2))[0]):
        follow = follow_up(topic, rng) if topic and rng.random() < 0.7 else None
        if name and rng.random() < 0.5:
            says = (f"your name is {name}", f"you are {name}")
            follow = (
                "What is my name?",
                Topic("recall", (), says, notes=(f"{name} is a fine name",), emoji="🙂"),
            )
        if follow:
            said, topic = typing_noise(follow[0], rng), follow[1]
        else:
            topic = draw_topic(rng, factual=rng.random() < 0.62)
            said = user_message(topic, rng)
            name = topic.says[0].split(", ")[-1] if topic.kind == "name" else name
        messages.append(Message("user", said))
        messages.append(Message("assistant", reply(topic, draw_style(rng), rng)))
    return messages


def dialogues(count: int, seed: int) -> Iterator[list[Message]]:
    """Yields `count` dialogues, which the seed determines."""
    rng = random.Random(seed)
    for _ in range(count):
        yield dialogue(rng)
