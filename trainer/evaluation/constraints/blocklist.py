"""A Blocklist is an operator's list of what no reply may say: words, phrases, and regular expressions.

The file has one entry a line: words, which count as whole words in any case, or a regular expression between
slashes, in any case. Empty lines and lines that begin with # do not count. Expressions run on RE2, in time
linear in the length of the text, whatever they are; it comes with the extra `safety`.

The list has no margin. A candidate that says what neither the base nor the live policy ever says is blocked.
If all of them say it in an equal share q of their replies, that happens by chance with a probability of
(1 − q)^m·(1 − (1 − q)^n) for n replies of the candidate and m of the others: at most 4% for n = 64 and
m = 576.
"""

import importlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from schemas.errors import StartError
from trainer.evaluation.constraints.finding import Finding, Replies, compare_replies
from trainer.evaluation.constraints.word_list import WordList

MOST_LINES, MOST_EXPRESSIONS, MOST_CHARACTERS = 10_000, 200, 500
"""Most lines of a list, most regular expressions among them, and most characters of a line."""

SETTING = "trainer.gate.blocklist_file"


class Blocklist:
    """The entries of a file. Raises StartError where it cannot be read."""

    def __init__(self, path: Path) -> None:
        entries = list(_entries(path))
        self._words = WordList(entry for _, entry in entries if not _is_expression(entry))
        expressions = [(number, entry[1:-1]) for number, entry in entries if _is_expression(entry)]
        if len(expressions) > MOST_EXPRESSIONS:
            raise StartError(
                f"{SETTING} has {len(expressions)} regular expressions; it may have {MOST_EXPRESSIONS}."
            )
        self._expressions = _compile(expressions) if expressions else []

    def __call__(self, text: str) -> bool:
        """Whether a text has one of the entries."""
        return self._words.occurs_in(text) or any(each.search(text) for each in self._expressions)


def compare_blocklist(blocklist: Blocklist, replies: Replies) -> Finding:
    """Returns what was found of the entries of a list in the replies."""
    found = compare_replies("blocklist", blocklist, replies, 0.0)
    if found.candidate.value <= found.limit:
        return replace(found, state="good")
    return replace(found, state="blocked") if found.limit == 0 else found


def _entries(path: Path) -> Iterable[tuple[int, str]]:
    """Yields the entries with the numbers of their lines."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"{SETTING} cannot be read: {error}.") from None
    if len(lines) > MOST_LINES:
        raise StartError(f"{SETTING} has {len(lines)} lines; it may have {MOST_LINES:,}.")
    for number, line in enumerate(lines, 1):
        entry = line.strip()
        if len(entry) > MOST_CHARACTERS:
            raise StartError(f"Line {number} of {SETTING} has more than {MOST_CHARACTERS} characters.")
        if entry and not entry.startswith("#"):
            yield number, entry


def _is_expression(entry: str) -> bool:
    return len(entry) > 2 and entry[0] == entry[-1] == "/"


def _compile(expressions: list[tuple[int, str]]) -> list[Any]:
    try:
        re2: Any = importlib.import_module("re2")
    except ImportError:
        raise StartError(
            f"{SETTING} has regular expressions, which need RE2: pip install 'hearken[safety]'."
        ) from None
    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    found = []
    for number, expression in expressions:
        try:
            found.append(re2.compile(expression, options))
        except re2.error as error:
            raise StartError(f"Line {number} of {SETTING} is no regular expression: {error}.") from None
    return found
