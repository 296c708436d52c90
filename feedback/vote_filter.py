"""A filter selects votes. The export, the command line, the API and the console share it, so that what is
exported is what was seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

FACET_LENGTH = 200
"""Characters of a facet that are stored and compared (`describe_vote` in schemas/sql)."""

# Each word of the search that has two letters or more also finds the words that begin with it.
_WORDS: LiteralString = r"""
f.words @@ regexp_replace(
    websearch_to_tsquery('simple', %(text)s)::text, '([^'' ]{2})''(?=[ )]|$)', '\1'':*', 'g'
)::tsquery
"""


class Position(NamedTuple):
    """The place of a vote in the order in which votes were committed."""

    epoch: int
    xid: str
    id: str


@dataclass(frozen=True, slots=True)
class Filter:
    """Which votes to read: in a time, of a type and value (`up`, `down`, `none`, a signal's name), with this
    reason, on replies of this policy, of chats with these tags (`key=value`, from their metadata), of
    these raters (pseudonyms), with these words or beginnings of words (as in a web search), only active
    ones, after the vote with this id; at most `limit`. Or those after one position and up to another
    (`between`), in the order of commits."""

    since: datetime | None = None
    until: datetime | None = None
    type: str | None = None
    value: str | None = None
    reason: str | None = None
    policy: str | None = None
    tags: Sequence[str] = ()
    raters: Sequence[str] | None = None
    text: str | None = None
    active: bool = False
    after: str | None = None
    limit: int | None = None
    between: tuple[Position, Position] | None = None

    def where(self, project: str) -> LiteralString:
        """Returns the condition on a row `f` of `feedback`, without `after` and `between`; its values are
        `values`."""
        conditions: list[LiteralString] = ["f.project = %(project)s"]
        if self.since is not None:
            conditions.append("f.created_at >= %(since)s")
        if self.until is not None:
            conditions.append("f.created_at < %(until)s")
        if len(self._facets(project)) > 1:
            conditions.append("f.facets @> %(facets)s")
        if self.raters is not None:
            conditions.append("f.facets && %(raters)s")
        if self.text is not None:
            conditions.append(_WORDS)
        if self.active:
            conditions.append("f.superseded_by is null and f.retracted_at is null")
        return " and ".join(conditions)

    def values(self, project: str) -> dict[str, Any]:
        """Returns the values of the condition."""
        raters = None if self.raters is None else [_facet("rater", rater) for rater in self.raters]
        return {
            "project": project,
            "since": self.since,
            "until": self.until,
            "facets": self._facets(project),
            "raters": raters,
            "text": self.text,
        }

    def _facets(self, project: str) -> list[str]:
        """Returns the facets that a vote must have. The project is one of them, so that the index leaves out
        the votes of the others."""
        named = (("type", self.type), ("value", self.value), ("reason", self.reason), ("policy", self.policy))
        found = [_facet(name, value) for name, value in named if value is not None]
        return [_facet("project", project), *found, *(_facet("tag", tag) for tag in self.tags)]


ALL = Filter()


def _facet(name: str, value: str) -> str:
    return f"{name}:{value}"[:FACET_LENGTH]
