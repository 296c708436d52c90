"""This module generates the factual topics of the closed world from the tables in `facts`."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from trainer.starter import facts
from trainer.starter.topics import Topic, an, parts


def questions() -> Iterator[Topic]:
    """Yields every topic that comes from `facts`."""
    for group in (_countries, _animals, _sizes, _colours, _words, _produce, _jobs, _trivia, _calendar, _sums):
        yield from group()


class About(NamedTuple):
    """What a fact is about; `notes` holds further things to say, separated by semicolons."""

    subject: str
    notes: str
    emoji: str
    entity: str = ""


def _fact(kind: str, asks: str, says: str, accept: str, about: About) -> Topic:
    """Returns a topic from fields whose parts are separated by semicolons. An empty `accept` means that it
    has no right answer."""
    topic = Topic(kind, parts(asks), parts(says), accept=parts(accept) if accept else None)
    return topic._replace(
        subject=about.subject, notes=parts(about.notes), emoji=about.emoji, entity=about.entity
    )


def _countries() -> Iterator[Topic]:
    for name, capital, continent, known in facts.COUNTRIES:
        asks = (
            f"What is the capital of {name}?; Capital of {name}?; Which city is the capital of {name}?;"
            f"Tell me the capital of {name}.; Do you know the capital of {name}?"
        )
        says = f"it is {capital}; the capital of {name} is {capital}"
        here, famous, seat = f"is in {continent}", f"is known for {known}", f"has the capital {capital}"
        yield _fact("capital", asks, says, capital, About(name, f"{here}; {famous}", "🌍", name))
        asks = f"Where is {name}?; Which continent is {name} in?"
        says = f"it is in {continent}; {name} is in {continent}"
        yield _fact("continent", asks, says, continent, About(name, f"{famous}; {seat}", "🌍", name))
        asks = f"What is {name} known for?; What is {name} famous for?"
        says = f"it is known for {known}; {name} is known for {known}"
        yield _fact("known", asks, says, known, About(name, f"{here}; {seat}", "🌍", name))
        asks = f"Tell me about {name}.; What do you know about {name}?"
        says = f"{name} is in {continent}; {name} is known for {known}"
        yield _fact("country", asks, says, "", About(name, f"{here}; {famous}; {seat}", "🌍", name))


def _animals() -> Iterator[Topic]:
    for name, sound, young, home, food, legs, _size, other in facts.ANIMALS:
        one, many = an(name), facts.many(name)
        notes = {"other": other, "food": f"eats {food}", "home": f"lives {home}"}
        if sound != "-":
            notes["sound"] = f"says {sound}"
        if legs in "24":
            notes["legs"] = f"has {legs} legs"
        told = {
            "sound": (
                f"What sound does {one} make?; What does {one} say?; What sound do {many} make?",
                f"it says {sound}; {one} says {sound}",
                sound,
            ),
            "young": (
                f"What is a baby {name} called?; What do you call a young {name}?; Name of a baby {name}?",
                f"it is {an(young)}; a baby {name} is called {an(young)}",
                young,
            ),
            "home": (
                f"Where does {one} live?; Where do {many} live?",
                f"it lives {home}; {one} lives {home}",
                home.split()[-1],
            ),
            "food": (
                f"What does {one} eat?; What do {many} eat?",
                f"it eats {food}; {one} eats {food}",
                food,
            ),
            "legs": (
                f"How many legs does {one} have?; How many legs do {many} have?",
                f"it has {legs}; {one} has {legs} legs",
                legs,
            ),
            "animal": (
                f"Tell me about {one}.; What do you know about {one}?; Do you like {many}?;"
                f"Tell me about {many}.",
                f"{one} {other}; {one} lives {home}; {one} eats {food}",
                "",
            ),
        }
        for kind, (asks, says, answer) in told.items():
            rest = "; ".join([note for key, note in notes.items() if key != kind][:4])
            if answer != "-":
                yield _fact(kind, asks, says, answer, About(one, rest, "🐾", one))


def _sizes() -> Iterator[Topic]:
    sizes = [(row[0], int(row[6])) for row in facts.ANIMALS]
    pairs = [(first, second) for first in sizes for second in sizes if abs(first[1] - second[1]) >= 3]
    for (one, big), (two, small) in pairs:
        for word, answer in (
            ("bigger", one if big > small else two),
            ("smaller", two if big > small else one),
        ):
            asks = f"Which is {word}, {an(one)} or {an(two)}?; Is {an(one)} or {an(two)} {word}?"
            notes = f"that is easy to see; just picture the {answer}"
            says = f"the {answer} is {word}; it is the {answer}"
            yield _fact(word, asks, says, answer, About("", notes, "🐾"))


def _colours() -> Iterator[Topic]:
    for thing, colour in facts.COLOURS:
        asks = f"What colour is {thing}?; What color is {thing}?; Tell me the colour of {thing}."
        says = f"it is {colour}; {thing} is {colour}; the colour of {thing} is {colour}"
        notes = "is good to paint with; is easy to spot"
        yield _fact("colour", asks, says, colour, About(f"the colour {colour}", notes, "🎨", thing))
    for first, second, mix in facts.MIXES:
        for one, two in ((first, second), (second, first)):
            asks = f"What do you get if you mix {one} and {two}?; What colour do {one} and {two} make?"
            says = f"it is {mix}; {one} and {two} make {mix}; you get {mix}"
            notes = "is fun to try; is done with a brush"
            yield _fact("mix", asks, says, mix, About("mixing colours", notes, "🎨", f"{one} and {two}"))


def _words() -> Iterator[Topic]:
    for first, second in facts.OPPOSITES:
        for one, two in ((first, second), (second, first)):
            asks = f"What is the opposite of {one}?; Opposite of {one}?"
            says = f"it is {two}; the opposite of {one} is {two}"
            notes = f"has {len(two)} letters; starts with {two[0].upper()}"
            yield _fact("opposite", asks, says, two, About(f"the word {two}", notes, "🔁", one))
    for word, one, two in facts.RHYMES:
        asks = f"What rhymes with {word}?; Give me a rhyme for {word}."
        says = f"it rhymes with {one}; {word} rhymes with {one}"
        yield _fact(
            "rhyme", asks, says, f"{one}; {two}", About("", f"also {two}; say them aloud", "🎵", word)
        )
    for word, plural in facts.PLURALS:
        asks = f"What is the plural of {word}?; Plural of {word}?"
        says = f"it is {plural}; the plural of {word} is {plural}"
        notes = f"one {word}, two {plural}; English is odd at times"
        yield _fact("plural", asks, says, plural, About("", notes, "📚", word))
    for language, *foreign in facts.LANGUAGES:
        for english, word in zip(("hello", "thank you", "yes", "cat"), foreign, strict=True):
            topic = f"{english} in {language}"
            asks = f"How do you say {topic}?; What is {topic}?; Translate {english} to {language}."
            says = f"it is {word}; {topic} is {word}"
            yield _fact(
                "translate",
                asks,
                says,
                word,
                About(language, "is a fine language; is fun to speak", "💬", topic),
            )


def _produce() -> Iterator[Topic]:
    for kind, names in (("fruit", facts.FRUIT), ("vegetable", facts.VEGETABLES)):
        for one in map(an, names):
            asks = f"Is {one} a fruit or a vegetable?; {one.capitalize()}: fruit or vegetable?"
            says = f"it is a {kind}; {one} is a {kind}"
            yield _fact(
                "produce", asks, says, kind, About(one, "is good to eat; is full of vitamins", "🍎", one)
            )


def _jobs() -> Iterator[Topic]:
    for who, does, key, where in facts.JOBS:
        one = an(who)
        asks = f"What does {one} do?; What is the job of {one}?"
        notes = f"{one} works {where}; good to know"
        yield _fact("job", asks, f"{one} {does}; the {who} {does}", key, About("", notes, "🛠", one))
        asks = f"Who {does}?; What do you call a person who {does}?"
        yield _fact("who", asks, f"it is {one}; {one} {does}", who, About("", notes, "🛠"))


def _trivia() -> Iterator[Topic]:
    for question, about, answer, clause, other in facts.TRIVIA:
        asked = question[0].lower() + question[1:]
        says = f"it is {answer}; {clause}" if question.startswith(("How many", "Which season")) else clause
        notes = f"good to know; there is more to say about {about}"
        accept = answer if other == "-" else f"{answer}; {other}"
        yield _fact(
            "trivia", f"{question}; {asked[:-1]}; Tell me: {asked}", says, accept, About("", notes, "💡")
        )


def _calendar() -> Iterator[Topic]:
    for kind, names in (("day", facts.DAYS), ("month", facts.MONTHS)):
        for index, name in enumerate(names):
            for word, other in (("after", names[(index + 1) % len(names)]), ("before", names[index - 1])):
                asks = f"Which {kind} comes {word} {name}?; What {kind} is {word} {name}?"
                says = f"it is {other}; the {kind} {word} {name} is {other}"
                notes = f"has {len(other)} letters; starts with {other[0]}"
                yield _fact(f"{kind} {word}", asks, says, other, About(other, notes, "📅", name))
    for month, days, season in zip(facts.MONTHS, facts.MONTH_DAYS, facts.SEASONS, strict=True):
        asks = f"How many days does {month} have?; How long is {month}?"
        says = f"it has {days}; {month} has {days} days"
        notes = f"starts with {month[0]}; is in {season}"
        yield _fact("month days", asks, says, days, About(month, notes, "📅", month))
        asks = f"Which season is {month} in?; What season is it in {month}?"
        says = f"it is {season}; {month} is in {season}"
        notes = f"starts with {month[0]}; has {days} days"
        yield _fact("month season", asks, says, season, About(month, notes, "📅", month))
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    for letter, after in pairwise(letters):
        asks = f"Which letter comes after {letter}?; What letter follows {letter}?"
        says = f"it is {after}; the letter after {letter} is {after}"
        yield _fact(
            "letter",
            asks,
            says,
            after,
            About("", "the alphabet has 26 letters; sing it to remember", "🔤", letter),
        )


def _sums() -> Iterator[Topic]:
    small = range(1, 11)
    sums = [(f"{a} + {b}", f"{a} plus {b}", a + b) for a in small for b in small]
    # 8 - 4 is left out: the question contains its answer, so a reply that repeats the question would count.
    sums += [(f"{a} - {b}", f"{a} minus {b}", a - b) for a in small for b in range(1, a) if a != 2 * b]
    for signs, words, answer in sums:
        asks = f"What is {signs}?; What is {words}?; How much is {signs}?; {signs}"
        says = f"it is {answer}; {signs} is {answer}"
        digits = "has one digit" if answer < 10 else "has two digits"
        notes = f"is {'odd' if answer % 2 else 'even'}; is easy to check; {digits}"
        yield _fact("sum", asks, says, str(answer), About("the result", notes, "🔢", signs))
