"""Plain rules find out which criteria a comment is about, where no judge has said so.

A comment names a criterion where it has one of its phrases; a negation shortly before turns the phrase round,
and a wish ("could be more concise") makes it say nothing. The phrases are English. A comment in another
language is left alone: words of other languages may look like them ("kind", "rude"), so a comment of several
words must have an English function word. What names a criterion both ways says nothing about it.
"""

import re
import unicodedata

MAX_CHARACTERS = 2_000
"""Characters of a comment that are read."""

PLAIN_WORDS = 3
"""Words up to which a comment needs no function word to be taken for English."""

_PHRASES: dict[str, tuple[str, str]] = {  # by criterion: of replies that meet it, of those that do not
    "helpful": (
        r"helpful|helped|useful|clear|clearly|complete|on point|answers? (?:my|the) question",
        r"unhelpful|useless|unclear|confusing|incomplete|off[- ]topic|irrelevant|misses the point|evasive"
        r"|(?:does not|doesn't|didn't|did not) answer|ignored (?:my|the) question",
    ),
    "correct": (
        r"correct|correctly|accurate|right answer|is right|true|factual",
        r"incorrect|wrong|inaccurate|false|untrue|made[- ]up|hallucinat\w+|outdated|mistakes?|errors?",
    ),
    "safe": (
        r"safe|harmless|responsible",
        r"unsafe|harmful|dangerous|offensive|toxic|inappropriate|hateful|insult\w*|abusive|irresponsible",
    ),
    "tone": (
        r"friendly|polite|kind|warm|charming|pleasant|nice tone|good tone",
        r"unfriendly|impolite|rude|cold|condescending|arrogant|patronising|patronizing|gushing|robotic|preachy"
        r"|bad tone|wrong tone",
    ),
    "length": (
        r"concise|to the point|right length|good length|succinct",
        r"too (?:long|short|brief|wordy|verbose|detailed)|verbose|long[- ]winded|wordy|rambling|rambles",
    ),
}
_RULES = [
    (criterion, good, re.compile(rf"(?<!\w)(?:{phrases})(?!\w)"))
    for criterion, both in _PHRASES.items()
    for good, phrases in zip((True, False), both, strict=True)
]
_ENGLISH = re.compile(r"\b(?:the|this|that|it|it's|its|too|not|very|and|you|answers?|reply|replies|but)\b")
_NEGATIONS = {"not", "never", "no", "nothing", "hardly", "without", "lack", "lacks", "cannot"}
_WISHES = {"more", "less", "should", "could", "would", "if"}
_NEAR = 3  # words before a phrase that may turn it round


def criteria_of(comment: str) -> dict[str, bool]:
    """Returns the criteria that a comment is about, and whether it says that the reply meets them."""
    text = unicodedata.normalize("NFKC", comment[:MAX_CHARACTERS]).casefold().replace("’", "'")
    if len(text.split()) > PLAIN_WORDS and not _ENGLISH.search(text):
        return {}
    said: dict[str, set[bool]] = {}
    for criterion, good, phrases in _RULES:
        for found in phrases.finditer(text):
            near = set(re.split(r"[.,;:!?\n]", text[: found.start()])[-1].split()[-_NEAR:])
            if near.isdisjoint(_WISHES):
                negated = not near.isdisjoint(_NEGATIONS) or any(word.endswith("n't") for word in near)
                said.setdefault(criterion, set()).add(good != negated)
    return {criterion: ways.pop() for criterion, ways in said.items() if len(ways) == 1}
