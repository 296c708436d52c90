"""Plain rules find out which criteria a comment is about, where no judge has said so.

A comment names a criterion where it has one of its phrases; a negation shortly before turns the phrase round,
and a wish ("could be more concise") makes it say nothing. The phrases are English, German and Arabic
(`comment_phrases`). A comment in another language is left alone: words of other languages may look like them
("kind", "rude"), so a comment of several words is in the language of most of its function words, and must
have one. What names a criterion both ways says nothing about it.
"""

import re
from collections.abc import Sequence

from trainer.data.comment_phrases import LANGUAGES, Language, folded

MAX_CHARACTERS = 2_000
"""Characters of a comment that are read."""

PLAIN_WORDS = 3
"""Words up to which a comment needs no function word: it is read by the rules of every language."""

_NEAR = 3  # words before a phrase that may turn it round
_CLAUSE = re.compile(folded(r"[.,;:!?\n،؛؟]|\b(?:but|aber|sondern|و?لكن(?:ه|ها)?|بل)\b"))


class _Rules:
    """The rules of one language."""

    def __init__(self, language: Language) -> None:
        self.function_words = _words(language.function_words)
        self.negations, self.wishes, self.emphases = (
            _words(each) for each in (language.negations, language.wishes, language.emphases)
        )
        self.phrases = [
            (criterion, good, _words(phrases, language.prefix))
            for criterion, both in language.phrases.items()
            for good, phrases in zip((True, False), both, strict=True)
        ]


def _words(pattern: str, prefix: str = "") -> re.Pattern[str]:
    return re.compile(folded(rf"(?<!\w){prefix}(?:{pattern})(?!\w)"))


_RULES = [_Rules(language) for language in LANGUAGES]


def criteria_of(comment: str) -> dict[str, bool]:
    """Returns the criteria that a comment is about, and whether it says that the reply meets them."""
    text = folded(comment[:MAX_CHARACTERS])
    said: dict[str, set[bool]] = {}
    for rules in _languages_of(text):
        plain = rules.emphases.sub(" ", text)
        for criterion, good, phrases in rules.phrases:
            for found in phrases.finditer(plain):
                near = " ".join(_CLAUSE.split(plain[: found.start()])[-1].split()[-_NEAR:])
                if not rules.wishes.search(near):
                    negated = rules.negations.search(near) is not None
                    said.setdefault(criterion, set()).add(good != negated)
    return {criterion: ways.pop() for criterion, ways in said.items() if len(ways) == 1}


def _languages_of(text: str) -> Sequence[_Rules]:
    counts = [len(rules.function_words.findall(text)) for rules in _RULES]
    if max(counts) == 0 and len(text.split()) > PLAIN_WORDS:
        return []
    return [rules for rules, count in zip(_RULES, counts, strict=True) if count == max(counts)]
