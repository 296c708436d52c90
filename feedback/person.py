"""A person, where people are counted, is whom a server names. All whom none names, in one network, are one
person, as a browser opens as many sessions as it likes (`serving.identity`)."""

from typing import LiteralString


def person_of(turn: LiteralString, row: LiteralString | None = None) -> LiteralString:
    """Returns the SQL of the person of the row `row`, such as a vote, which has the `rater` while `turn` has
    the `origin`; without it, `turn` has both."""
    return f"coalesce({turn}.origin, {row or turn}.rater)"
