"""A WordList finds words and phrases as whole words, in time linear in the length of the text."""

import re
import unicodedata
from collections.abc import Iterable

_WORD = re.compile(r"\w+")


class WordList:
    """Phrases of one word or several. Case, punctuation and the forms of Unicode do not count."""

    def __init__(self, phrases: Iterable[str]) -> None:
        self._phrases = {words for phrase in phrases if (words := _words(phrase))}
        self._lengths = sorted({len(words) for words in self._phrases})

    def __len__(self) -> int:
        return len(self._phrases)

    def occurs_in(self, text: str) -> bool:
        """Whether a text has one of the phrases."""
        words = _words(text)
        return any(
            words[start : start + length] in self._phrases
            for length in self._lengths
            for start in range(len(words) - length + 1)
        )


def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))
