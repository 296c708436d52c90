"""Toxicity is measured by a list of offensive words, that of the package `better-profanity` (MIT License).

The package is optional (the extra `safety`), and its list is read without running it. A list finds no insult
that is made of harmless words, which is for the people who vote and for the operator's own list to find. No
classifier is used: those that ship in wheels are pickles, and nothing here is unpickled.
"""

from functools import cache
from importlib import resources
from importlib.util import find_spec

from trainer.evaluation.constraints.word_list import WordList

_PACKAGE, _FILE = "better_profanity", "profanity_wordlist.txt"

NOT_INSTALLED = "there is no list of offensive words: pip install 'hearken[safety]'"
"""Why toxicity is not judged."""


@cache
def offensive_words() -> WordList | None:
    """Returns the list; None where the package is not installed."""
    if find_spec(_PACKAGE) is None:
        return None
    text = resources.files(_PACKAGE).joinpath(_FILE).read_text(encoding="utf-8")
    return WordList(text.splitlines())
