"""Labels and ratings of imported rows, as words, numbers or truth values, say whether a reply is good."""

import math
from typing import Any

from schemas.errors import MalformedRow

_GOOD = {
    "true", "yes", "y", "good", "up", "thumbs up", "like", "liked", "correct", "right", "accept", "accepted",
    "acceptable", "approve", "approved", "pass", "passed", "positive", "helpful", "👍",
}  # fmt: skip
_BAD = {
    "false", "no", "n", "bad", "down", "thumbs down", "dislike", "disliked", "incorrect", "wrong", "reject",
    "rejected", "unacceptable", "disapprove", "fail", "failed", "negative", "unhelpful", "not helpful", "👎",
}  # fmt: skip


def is_good(value: Any, name: str, threshold: float | None) -> bool:
    """Returns whether `name`, a rating or a label, says that a reply is good: a number from `threshold` on, a
    word that says so plainly. Raises MalformedRow for what says neither."""
    if says_plainly(value):
        return _word(value) in _GOOD
    if not is_number(value):
        raise MalformedRow(f"{name} is {str(value)[:40]!r}, which says neither good nor bad")
    if threshold is None:
        raise MalformedRow(f"{name} is a number: say from which value on a reply is good (--threshold)")
    return float(value) >= threshold


def says_plainly(value: Any) -> bool:
    """Returns whether a value is a word, or a truth value, that says good or bad."""
    return _word(value) in _GOOD | _BAD


def _word(value: Any) -> str:
    return str(value).strip().lower().replace("_", " ").replace("-", " ")


def is_number(value: Any) -> bool:
    """Returns whether a value, perhaps in a text, is a number and no truth value."""
    if isinstance(value, bool):
        return False
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False
