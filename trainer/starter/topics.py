"""This module defines topics and generates those without a right answer, such as small talk and jokes."""

from collections.abc import Iterator
from typing import NamedTuple

from trainer.starter import smalltalk


class Topic(NamedTuple):
    """A topic of conversation: user messages, and the parts of replies in any style."""

    kind: str
    asks: tuple[str, ...]
    """User messages that bring it up."""
    says: tuple[str, ...]
    """Clauses that are a whole answer each, without capital and full stop."""
    subject: str = ""
    """The subject of the notes; empty where they are whole clauses ("boil the water")."""
    notes: tuple[str, ...] = ()
    """Further things to say: predicates of the subject ("is in Europe"), or whole clauses."""
    accept: tuple[str, ...] | None = None
    """The answers that count as right; None where anything goes."""
    emoji: str = ""
    entity: str = ""
    """The name that a follow-up ("and what about …?") uses; empty where that makes no sense."""
    lead: str = ""
    """The clause before a list, where none of `says` fits."""
    items: tuple[str, ...] = ()
    """The list's items, where the notes do not fit."""

    @property
    def hedgeable(self) -> bool:
        """Whether a reply may say "I think …"."""
        if self.kind == "sure":
            return False
        return self.accept is not None or self.kind in ("advice", "recipe", "favourite")


def an(noun: str) -> str:
    """Returns the noun with its indefinite article."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def parts(field: str) -> tuple[str, ...]:
    """Splits a field at its semicolons."""
    return tuple(part.strip() for part in field.split(";"))


def chats() -> Iterator[Topic]:
    """Yields every topic from `smalltalk`, and one example of a story."""
    for asks, says, notes, emoji in smalltalk.SOCIAL:
        kind = "favourite" if "favourite" in asks else "social"
        yield Topic(kind, parts(asks), parts(says), notes=parts(notes), emoji=emoji)
    for asks, says, notes, emoji in smalltalk.ADVICE:
        yield Topic("advice", parts(asks), parts(says), notes=parts(notes), emoji=emoji)
    for dish, needs, steps, emoji in smalltalk.RECIPES:
        asks = f"How do I make {dish}?; Give me a recipe for {dish}.; I want to make {dish}."
        says = f"you need {needs}; for {dish} you need {needs}"
        yield Topic("recipe", parts(asks), parts(says), notes=parts(steps), emoji=emoji, entity=dish)
    for setup, punchline in smalltalk.JOKES:
        asks = "Tell me a joke.; Do you know a joke?; Make me laugh.; A joke please; Tell me another joke."
        notes = "it is an old one; that one makes me laugh"
        joke = Topic("joke", parts(asks), (f"{setup} {punchline}",), notes=parts(notes), emoji="😄")
        yield joke._replace(lead="listen", items=(setup, punchline))
    yield from map(introduction, smalltalk.NAMES)
    for thing in smalltalk.UNKNOWN:
        yield unknown(thing)
    yield story("fox", "lantern", "in the snow")


def introduction(name: str) -> Topic:
    """Returns the topic of a user who says their name."""
    asks = f"My name is {name}.; I am {name}.; Call me {name}.; Hello, I am {name}.; Hi, my name is {name}"
    says = f"nice to meet you, {name}; hello, {name}; good to meet you, {name}"
    notes = f"{name} is a fine name; I will try to remember it; ask me anything"
    return Topic("name", parts(asks), parts(says), notes=parts(notes), emoji="👋")


def unknown(thing: str) -> Topic:
    """Returns the topic of a question about something that the model does not know."""
    asks = (
        f"What is {thing}?; Tell me about {thing}.; Explain {thing}.; Can you help me with {thing}?;"
        f"Who invented {thing}?; How does {thing} work?; Write me something about {thing}.; Who won {thing}?;"
        f"Why is {thing} important?; {thing}"
    )
    says = (
        "I do not know that yet, but ask me about {offer}",
        "that is new to me, but I know about {offer}",
        "I do not know about that yet, but I can talk about {offer} and {also}",
    )
    return Topic("unknown", parts(asks), says, emoji="💭", lead="that is new to me, so try")


def story(hero: str, treasure: str, place: str) -> Topic:
    """Returns the topic of a very small story."""
    asks = f"Tell me a story.; Tell me a story about {an(hero)}.; A story, please; Do you know a story?"
    found = f"{an(hero)} found {an(treasure)}"
    says = (found, f"{found} {place}", f"once upon a time {found} {place}")
    notes = ("took it home", "told all the others", f"slept next to the {treasure}")
    return Topic("story", parts(asks), says, subject=f"the {hero}", notes=notes, emoji="✨")
