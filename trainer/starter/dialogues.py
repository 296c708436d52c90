"""The grammar that writes the starter model's training text: replies in a wanted style, and dialogues.

A reply is an opening, what there is to say, more of it where the reply is long, and a closing. Every style
has several places where it can show, so all 256 combinations of the eight axes read as somebody's manner.
Styles are drawn for each reply on its own, so they depend on nothing that the model can see.
"""

import random
from collections.abc import Iterator
from typing import NamedTuple

from trainer.starter import phrases, smalltalk
from trainer.starter.facts import words
from trainer.starter.styles import AXES, SHORT_WORDS, styles
from trainer.starter.topics import Topic
from trainer.starter.world import ask, by_kind, draw, hurried

Style = dict[str, bool]


class Message(NamedTuple):
    """One message of a dialogue."""

    role: str
    content: str


def draw_style(rng: random.Random) -> Style:
    """A style at random, each axis by a coin of its own."""
    return {axis: rng.random() < 0.5 for axis in AXES}


def reply(topic: Topic, want: Style, rng: random.Random) -> str:
    """A reply on the topic whose `styles` are exactly `want`; ValueError where the grammar finds none."""
    for _ in range(400):
        text = _compose(topic, want, rng)
        if styles(text) == want:
            return text
    raise ValueError(f"no reply on {topic.kind} {topic.says[0]!r} in the style {want}")


def _compose(topic: Topic, want: Style, rng: random.Random) -> str:
    formal, warm, short = want["formal"], want["warm"], want["short"]
    hedge = (
        rng.choice(["before", "after", "closer"] if topic.hedgeable else ["closer"])
        if want["hedging"]
        else ""
    )
    formal_first, warm_first = rng.random() < 0.5, rng.random() < 0.5
    social = topic.kind in ("social", "name", "recall", "unknown")
    openers = phrases.OPENERS[social or topic.kind in ("more", "sure", "joke", "story")]
    opener = rng.choice(openers[formal and formal_first, warm and warm_first])
    late = (hedge == "closer", formal and not formal_first, warm and not warm_first)
    closer = rng.choice(
        [text for text in phrases.CLOSERS[want["question"]][late] if _fits(text, topic, social)]
    )
    loud = rng.sample(range(3), rng.choice((1, 1, 2))) if want["exclamation"] else []

    core = rng.choice(topic.says[:1] if short and rng.random() < 0.5 else topic.says)
    if want["list"] and topic.lead:
        core = topic.lead
    if hedge == "before":
        core = f"{rng.choice(phrases.HEDGE_BEFORE[formal])} {core}"
    if hedge == "after":
        core += rng.choice(phrases.HEDGE_AFTER[formal])
    said = [_sentence(opener, "!" if 0 in loud else ".")] if opener else []
    said.append(_sentence(core, "!" if 1 in loud else ":" if want["list"] else "."))
    end = "?" if want["question"] else "!" if 2 in loud else "."
    last = [_sentence(closer, end)] if closer else []

    notes = list(topic.items if want["list"] and topic.items else topic.notes)
    notes = [note for note in notes if note not in core] or rng.sample(smalltalk.OFFERS, 4)
    if notes != list(topic.items):
        rng.shuffle(notes)
    listed: list[str] = []
    if want["list"]:
        listed = [
            note.removeprefix("is ")
            for note in notes[: 4 if not short or topic.items else rng.choice((1, 2, 2))]
        ]
        notes = []
    elif not topic.notes:
        notes = []
    fillers = rng.sample(phrases.FILLERS, len(phrases.FILLERS))
    enough = 0 if short else SHORT_WORDS + rng.randint(1, 5)
    while len(" ".join([*said, *listed, *last]).split()) + len(listed) < enough:
        if notes:
            subject = topic.subject and (
                "it" if topic.subject.lower() in " ".join(said).lower() else topic.subject
            )
            said.append(_sentence(f"{subject} {notes.pop()}".strip(), "."))
        else:
            (last if want["list"] else said).insert(
                0 if want["list"] else len(said), _sentence(fillers.pop(), ".")
            )
    text = (
        " ".join(said)
        + "".join(f"\n- {item}" for item in listed)
        + ("\n" if listed else " ")
        + " ".join(last)
    )
    if not formal and rng.random() < 0.7:
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
    """Something to say after a reply on the topic, and the topic of the answer; None for a fresh start."""
    kind = rng.choice(("more", "more", "thanks", "sure", "about", "about"))
    if kind == "thanks":
        thanked = ("you are welcome", "any time", "it was nothing")
        notes = (
            f"ask me about {topic.entity} again" if topic.entity else "ask me again",
            "try another question",
        )
        return rng.choice(_THANKS), Topic(
            "social", (), thanked, "", (*notes, "come back any time"), None, "👍"
        )
    if kind == "sure" and topic.accept is not None and topic.kind != "sure":
        sure = tuple(f"yes, {clause}" for clause in topic.says)
        return rng.choice(_SURE), topic._replace(kind="sure", says=sure)
    if kind == "about" and topic.entity:
        other = rng.choice(by_kind(topic.accept is not None)[0].get(topic.kind, [topic]))
        return (rng.choice(_ABOUT).format(other.entity), other) if other.entity != topic.entity else None
    if kind == "more" and topic.kind == "joke":
        return rng.choice(_MORE), rng.choice(by_kind(False)[0]["joke"])
    if (
        kind == "more"
        and (topic.subject or topic.kind in ("advice", "recipe"))
        and topic.kind not in ("more", "sure")
    ):
        more = tuple(f"{topic.subject} {note}".strip() for note in topic.notes)
        return rng.choice(_MORE), topic._replace(kind="more", says=more, accept=None)
    return None


def dialogue(rng: random.Random) -> list[Message]:
    """A conversation of one to a dozen exchanges, perhaps with a system prompt."""
    messages = [Message("system", rng.choice(smalltalk.SYSTEM))] if rng.random() < 0.12 else []
    topic: Topic | None = None
    name = ""
    for _ in range(rng.choices((1, 2, 3, 5, 12), (50, 27, 14, 7, 2))[0]):
        follow = follow_up(topic, rng) if topic and rng.random() < 0.7 else None
        if name and rng.random() < 0.5:
            says = (f"your name is {name}", f"you are {name}")
            follow = (
                "What is my name?",
                Topic("recall", (), says, "", (f"{name} is a fine name",), None, "🙂"),
            )
        if follow:
            said, topic = hurried(follow[0], rng), follow[1]
        else:
            topic = draw(rng, factual=rng.random() < 0.62)
            said = ask(topic, rng)
            name = topic.says[0].split(", ")[-1] if topic.kind == "name" else name
        messages.append(Message("user", said))
        messages.append(Message("assistant", reply(topic, draw_style(rng), rng)))
    return messages


def dialogues(count: int, seed: int) -> Iterator[list[Message]]:
    """`count` dialogues, the same for the same seed."""
    rng = random.Random(seed)
    for _ in range(count):
        yield dialogue(rng)
