"""What a topic is, and the topics without a right answer: small talk, advice, recipes, jokes and stories."""

from collections.abc import Iterator
from typing import NamedTuple

from trainer.starter import smalltalk


class Topic(NamedTuple):
    """One thing to talk about: how people ask, and what there is to say in any style."""

    kind: str
    asks: tuple[str, ...]
    says: tuple[str, ...]
    """Clauses, each a whole answer, without capital and full stop."""
    subject: str
    """What the notes are about; empty where the notes stand alone ("boil the water")."""
    notes: tuple[str, ...]
    """Predicates of the subject ("is in Europe"), or whole clauses where there is no subject."""
    accept: tuple[str, ...] | None = None
    emoji: str = ""
    entity: str = ""
    """What "and what about …?" may name; empty where that makes no sense."""
    lead: str = ""
    """What stands before a list, where none of `says` fits."""
    items: tuple[str, ...] = ()
    """What the list holds, where the notes do not fit."""

    @property
    def hedgeable(self) -> bool:
        """Whether "I think …" may stand before what it says."""
        if self.kind == "sure":
            return False
        return self.accept is not None or self.kind in ("advice", "recipe", "favourite")


def an(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def parts(field: str) -> tuple[str, ...]:
    """What stands between the semicolons."""
    return tuple(part.strip() for part in field.split(";"))


def chats() -> Iterator[Topic]:
    """Every topic from `smalltalk`; of stories, which are made up on the spot, one."""
    for asks, says, notes, emoji in smalltalk.SOCIAL:
        kind = "favourite" if "favourite" in asks else "social"
        yield Topic(kind, parts(asks), parts(says), "", parts(notes), None, emoji)
    for asks, says, notes, emoji in smalltalk.ADVICE:
        yield Topic("advice", parts(asks), parts(says), "", parts(notes), None, emoji)
    for dish, needs, steps, emoji in smalltalk.RECIPES:
        asks = f"How do I make {dish}?; Give me a recipe for {dish}.; I want to make {dish}."
        says = f"you need {needs}; for {dish} you need {needs}"
        yield Topic("recipe", parts(asks), parts(says), "", parts(steps), None, emoji, dish)
    for setup, punchline in smalltalk.JOKES:
        asks = "Tell me a joke.; Do you know a joke?; Make me laugh.; A joke please; Tell me another joke."
        notes = "it is an old one; that one makes me laugh"
        joke = (setup, punchline)
        yield Topic(
            "joke", parts(asks), (" ".join(joke),), "", parts(notes), None, "😄", lead="listen", items=joke
        )
    yield from map(introduction, smalltalk.NAMES)
    for thing in smalltalk.UNKNOWN:
        yield unknown(thing)
    yield story("fox", "lantern", "in the snow")


def introduction(name: str) -> Topic:
    """Somebody says their name."""
    asks = f"My name is {name}.; I am {name}.; Call me {name}.; Hello, I am {name}.; Hi, my name is {name}"
    says = f"nice to meet you, {name}; hello, {name}; good to meet you, {name}"
    notes = f"{name} is a fine name; I will try to remember it; ask me anything"
    return Topic("name", parts(asks), parts(says), "", parts(notes), None, "👋")


def unknown(thing: str) -> Topic:
    """What the model does not know about."""
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
    return Topic("unknown", parts(asks), says, "", (), None, "💭", lead="that is new to me, so try")


def story(hero: str, treasure: str, place: str) -> Topic:
    """A very small story."""
    asks = f"Tell me a story.; Tell me a story about {an(hero)}.; A story, please; Do you know a story?"
    found = f"{an(hero)} found {an(treasure)}"
    says = (found, f"{found} {place}", f"once upon a time {found} {place}")
    notes = ("took it home", "told all the others", f"slept next to the {treasure}")
    return Topic("story", parts(asks), says, f"the {hero}", notes, None, "✨")
