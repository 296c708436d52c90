"""How replies are written, in numbers that say nothing of whom they were for."""

import re
from collections.abc import Sequence

_MARKS = {
    "ask a question": re.compile(r"\?"),
    "exclaim": re.compile(r"!"),
    "have a list": re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.MULTILINE),
    "have an emoji": re.compile("[\U0001f300-\U0001faff☀-➿]"),
    "have a number": re.compile(r"\d"),
    "say I": re.compile(r"\bI\b"),
    "have several paragraphs": re.compile(r"\n\s*\n"),
}


def style(replies: Sequence[str]) -> dict[str, float]:
    """Mean words and sentences, and the share of the replies that do this or that."""
    count = max(1, len(replies))
    words = sum(len(reply.split()) for reply in replies) / count
    sentences = sum(len(re.findall(r"[.!?]+(?:\s|$)", reply)) for reply in replies) / count
    shares = {
        name: round(sum(bool(mark.search(reply)) for reply in replies) / count, 3)
        for name, mark in _MARKS.items()
    }
    return {"words": round(words, 1), "sentences": round(sentences, 2), **shares}
