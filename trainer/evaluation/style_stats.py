"""This module computes statistics of how replies are written; none depends on the user who asked."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

_MARKS = {
    "ask a question": re.compile(r"\?"),
    "exclaim": re.compile(r"!"),
    "have a list": re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.MULTILINE),
    "have an emoji": re.compile("[\U0001f300-\U0001faff☀-➿]"),
    "have a number": re.compile(r"\d"),
    "say I": re.compile(r"\bI\b"),
    "have several paragraphs": re.compile(r"\n\s*\n"),
}


def style_stats(replies: Sequence[str]) -> dict[str, float]:
    """Returns the mean number of words and sentences, and the share of the replies that have each mark."""
    count = max(1, len(replies))
    words = sum(len(reply.split()) for reply in replies) / count
    sentences = sum(len(re.findall(r"[.!?]+(?:\s|$)", reply)) for reply in replies) / count
    shares = {
        name: round(sum(bool(mark.search(reply)) for reply in replies) / count, 3)
        for name, mark in _MARKS.items()
    }
    return {"words": round(words, 1), "sentences": round(sentences, 2), **shares}


def repetition_rate(replies: Sequence[Sequence[int]], size: int = 4) -> float:
    """Returns the share of a reply's n-grams (`size` tokens) that occur earlier in it, on average over the
    replies."""
    shares = []
    for reply in replies:
        ngrams = [tuple(reply[start : start + size]) for start in range(len(reply) - size + 1)]
        shares.append(1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0)
    return sum(shares) / len(shares)


def distinct_2(replies: Sequence[Sequence[int]]) -> float:
    """Returns distinct-2, the share of different bigrams among all bigrams of the replies together (Li et al.
    2016)."""
    bigrams = [bigram for reply in replies for bigram in pairwise(reply)]
    return len(set(bigrams)) / len(bigrams) if bigrams else 0.0


def most_common_share(replies: Sequence[Sequence[int]]) -> float:
    """Returns the share of the replies that are equal to the most common reply."""
    return Counter(map(tuple, replies)).most_common(1)[0][1] / len(replies)
