"""This module classifies replies on eight binary style axes, from which simulated preferences are made.

Every axis depends on the text alone, so simulated people, evaluations and the model card agree.
"""

import re

AXES: tuple[str, ...] = ("short", "exclamation", "emoji", "question", "list", "hedging", "formal", "warm")

SHORT_WORDS = 18
"""The greatest number of words in a short reply, split at white space."""

HEDGES = (
    "maybe", "perhaps", "probably", "might", "may be", "I think", "I believe", "I guess", "it seems",
    "likely", "not sure",
)  # fmt: skip
FORMAL = (
    "certainly", "indeed", "kindly", "shall", "furthermore", "moreover", "allow me", "permit me", "assist",
    "assistance", "at your service", "would you care", "elaborate", "to be precise", "please note",
    "good day", "farewell", "may I", "one moment, please", "as requested",
)  # fmt: skip
WARM = (
    "friend", "dear", "pal", "buddy", "lovely", "glad", "gladly", "happy", "delighted", "pleasure",
    "wonderful", "take care", "hugs", "best wishes", "here for you",
)  # fmt: skip


def _any_of(phrases: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(r"\b(?:" + "|".join(map(re.escape, phrases)) + r")\b", re.IGNORECASE)


_HEDGING, _FORMAL, _WARM = _any_of(HEDGES), _any_of(FORMAL), _any_of(WARM)
_EMOJI = re.compile("[\U0001f000-\U0001faff\u2600-\u27bf\u2b50\u2300-\u23ff]")
_TRAILING = re.compile("[\\s\U0001f000-\U0001faff\u2600-\u27bf\u2b50\u2300-\u23ff\ufe0f\u200d]+$")
_LIST = re.compile(r"^\s*(?:[-*•]|\d+[.)])", re.MULTILINE)


def styles(text: str) -> dict[str, bool]:
    """Returns which axes hold for `text`: at most 18 words; a `!`; an emoji; `?` as its last character
    (spaces and emoji aside); a line that begins like a list item; hedging words; words of a formal or of a
    warm register."""
    return {
        "short": len(text.split()) <= SHORT_WORDS,
        "exclamation": "!" in text,
        "emoji": _EMOJI.search(text) is not None,
        "question": _TRAILING.sub("", text).endswith("?"),
        "list": _LIST.search(text) is not None,
        "hedging": _HEDGING.search(text) is not None,
        "formal": _FORMAL.search(text) is not None,
        "warm": _WARM.search(text) is not None,
    }
