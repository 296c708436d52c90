"""Other services export feedback apart from what it is on: tables that are joined by ids.

Each table is a file of any kind, with any name (its columns tell), or several. Feedback is kept in memory,
and what it is on passes by.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Self

from deploy.datasets.row_files import read_file
from feedback.labels import is_good, is_number
from feedback.layouts import Judgement
from feedback.row_messages import writable
from schemas.errors import HearkenError, MalformedRow, StartError

Row = dict[str, Any]


class JoinedTables(ABC):
    """The files of a service's tables, by table. `metric` is the one that says whether a reply is good, where
    there are several; of a number, a reply is good from `threshold` on."""

    name: ClassVar[str]
    size: ClassVar[int | None] = None
    subjects: ClassVar[frozenset[str]]
    """The tables of what feedback is on; the others have the feedback."""

    def __init__(
        self, tables: dict[str, list[Path]], metric: str | None = None, threshold: float | None = None
    ) -> None:
        self.tables = tables
        self.metric = metric
        self.threshold = threshold
        self.layout: str | None = None

    @classmethod
    def of(
        cls, files: Sequence[Path], metric: str | None = None, threshold: float | None = None
    ) -> tuple[Self | None, list[Path]]:
        """Returns the service's tables among the files, if they have feedback and what it is on, and the
        other files."""
        tables: dict[str, list[Path]] = {}
        others = []
        for file in files:
            table = None if str(file) == "-" else cls.table_of(_columns(file))
            if table is None:
                others.append(file)
            else:
                tables.setdefault(table, []).append(file)
        if not cls.subjects & tables.keys() or not tables.keys() - cls.subjects:
            return None, list(files)
        return cls(tables, metric, threshold), others

    @classmethod
    @abstractmethod
    def table_of(cls, columns: set[str]) -> str | None:
        """Returns which table has these columns; None where none of the service's has."""

    @abstractmethod
    def judgements(self) -> Iterator[tuple[int, Judgement | MalformedRow, int]]:
        """Yields the judgements, or why feedback is none, numbered. Raises StartError where feedback could
        mean several things, FileDamaged part of the way."""

    def rows(self, table: str) -> Iterator[Row | MalformedRow]:
        for file in self.tables.get(table, []):
            for row in read_file(file):
                if isinstance(row.value, dict | MalformedRow):
                    yield row.value
                else:
                    yield MalformedRow("it is no object")

    def objects(self, table: str) -> Iterator[Row]:
        return (row for row in self.rows(table) if isinstance(row, dict))

    def chosen_metric(self, names: Iterable[str]) -> str | None:
        """Returns the metric that judges. Raises StartError where that has to be said."""
        found = sorted(set(names))
        if self.metric is None and len(found) > 1:
            raise StartError(f"Say which metric means that a reply is good (--metric): {', '.join(found)}.")
        return self.metric or next(iter(found), None)

    def good(self, value: Any) -> bool:
        """Returns whether the metric's value says that a reply is good."""
        if self.threshold is None and is_number(value):
            raise StartError("The metric is a number: say from which value on a reply is good (--threshold).")
        return is_good(value, "the metric", self.threshold)


def _columns(file: Path) -> set[str]:
    """Returns the columns of a file's first row; none where it cannot be read."""
    try:
        first = next(islice(read_file(file), 1), None)
    except HearkenError:
        return set()
    return set(first.value) if first is not None and isinstance(first.value, dict) else set()


def parsed(value: Any, name: str) -> Any:
    """Returns a column of JSON, which most exports have as a text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise MalformedRow(f"{name} is no JSON") from None


def optional_text(value: Any) -> str | None:
    return writable(value, "a name") if isinstance(value, str) and value else None
