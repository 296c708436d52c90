"""TensorZero's tables are joined into judgements: inferences with the feedback on them.

`ChatInference` beside `BooleanMetricFeedback` or `FloatMetricFeedback` gives thumbs, beside
`DemonstrationFeedback` preferences of the demonstration, and `CommentFeedback` their comments: each table
exported as a file of any kind, with any name (its columns tell). Only text is read. Feedback is kept in
memory, inferences pass by.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from deploy.datasets.row_files import read_file
from feedback.layouts import Judgement, Message, assistant
from feedback.row_messages import writable
from schemas.errors import HearkenError, MalformedRow, StartError

Table = Literal["inferences", "metrics", "comments", "demonstrations"]

_PEOPLE = ("user_id", "user")
"""Tags that name the person."""


def table_of(file: Path) -> Table | None:
    """Returns which of TensorZero's tables a file holds, by its first row; None where it is none."""
    try:
        first = next(islice(read_file(file), 1), None)
    except HearkenError:
        return None
    columns = set(first.value) if first is not None and isinstance(first.value, dict) else set()
    if {"function_name", "variant_name", "input", "output"} <= columns:
        return "inferences"
    if {"target_id", "metric_name", "value"} <= columns:
        return "metrics"
    if {"target_id", "target_type", "value"} <= columns:
        return "comments"
    return "demonstrations" if {"inference_id", "value"} <= columns else None


@dataclass
class TensorZero:
    """The files of TensorZero's tables. `metric` is the one that says whether a reply is good, where there
    are several; of a number, a reply is good from `threshold` on."""

    tables: dict[Table, list[Path]]
    metric: str | None = None
    threshold: float | None = None
    layout: str | None = None
    _values: dict[str, Any] = field(default_factory=dict)
    _comments: dict[str, str] = field(default_factory=dict)
    _demonstrations: dict[str, Any] = field(default_factory=dict)

    name = "TensorZero's tables"
    size = None

    @classmethod
    def of(
        cls, files: Sequence[Path], metric: str | None = None, threshold: float | None = None
    ) -> tuple["TensorZero | None", list[Path]]:
        """Returns TensorZero's tables among the files, if they have feedback and what it is on, and the other
        files."""
        tables: dict[Table, list[Path]] = {}
        others = []
        for file in files:
            table = None if str(file) == "-" else table_of(file)
            if table is None:
                others.append(file)
            else:
                tables.setdefault(table, []).append(file)
        if "inferences" not in tables or len(tables) < 2:
            return None, list(files)
        return cls(tables, metric, threshold), others

    def judgements(self) -> Iterator[tuple[int, Judgement | MalformedRow, int]]:
        """Yields the judgements of each inference that has feedback, numbered by its row, or why it has none.
        Raises StartError where feedback could mean several things, FileDamaged part of the way."""
        self._read_feedback()
        number = 0
        for row in self._rows("inferences"):
            number += 1
            if isinstance(row, MalformedRow):
                yield number, row, 0
                continue
            id = str(row.get("id"))
            try:
                if id in self._values:
                    yield number, self._thumb(id, row), 0
                if id in self._demonstrations:
                    yield number, self._preference(id, row), 0
            except MalformedRow as error:
                yield number, error, 0
            self._values.pop(id, None)
            self._demonstrations.pop(id, None)
        for id in (*self._values, *self._demonstrations):
            number += 1
            yield number, MalformedRow(f"the files have no inference {id}, on which there is feedback"), 0

    def _rows(self, table: Table) -> Iterator[dict[str, Any] | MalformedRow]:
        for file in self.tables.get(table, []):
            for row in read_file(file):
                if isinstance(row.value, dict | MalformedRow):
                    yield row.value
                else:
                    yield MalformedRow("it is no object")

    def _read_feedback(self) -> None:
        """The newest feedback on an inference counts: ids begin with their time (UUIDv7)."""
        metrics = sorted(self._objects("metrics"), key=lambda row: str(row.get("id", "")))
        names = {str(row.get("metric_name")) for row in metrics}
        if self.metric is None and len(names) > 1:
            raise StartError(
                f"Say which metric means that a reply is good (--metric): {', '.join(sorted(names))}."
            )
        metric = self.metric or next(iter(names), None)
        for row in metrics:
            if str(row.get("metric_name")) == metric:
                self._values[str(row.get("target_id"))] = row.get("value")
        for row in self._objects("comments"):
            self._comments[str(row.get("target_id"))] = str(row.get("value"))
        for row in self._objects("demonstrations"):
            self._demonstrations[str(row.get("inference_id"))] = row.get("value")
        self.layout = f"{self.name}: {metric or 'demonstrations'} says which replies are good"

    def _objects(self, table: Table) -> Iterator[dict[str, Any]]:
        return (row for row in self._rows(table) if isinstance(row, dict))

    def _good(self, value: Any) -> bool:
        if isinstance(value, bool) or str(value).lower() in ("true", "false"):
            return str(value).lower() == "true"
        if self.threshold is None:
            raise StartError("The metric is a number: say from which value on a reply is good (--threshold).")
        try:
            return float(value) >= self.threshold
        except (TypeError, ValueError):
            raise MalformedRow("the metric's value is no number") from None

    def _thumb(self, id: str, row: dict[str, Any]) -> Judgement:
        messages, reply = _inference(row)
        comment = self._comments.get(id)
        return Judgement(
            "unpaired",
            messages,
            [assistant(reply)],
            self._good(self._values[id]),
            person=_person(row),
            model=_optional(row.get("variant_name")),
            comment=writable(comment, "a comment") if comment else None,
            key=f"tensorzero {id}",
        )

    def _preference(self, id: str, row: dict[str, Any]) -> Judgement:
        messages, reply = _inference(row)
        better = _text(_parsed(self._demonstrations[id], "the demonstration"), "the demonstration")
        if better == reply:
            raise MalformedRow("the demonstration is the reply itself")
        return Judgement(
            "preference",
            messages,
            [assistant(better), assistant(reply)],
            person=_person(row),
            model=_optional(row.get("variant_name")),
            key=f"tensorzero demonstration {id}",
        )


def _inference(row: dict[str, Any]) -> tuple[list[Message], str]:
    """Returns the prompt and the reply of an inference."""
    given = _parsed(row.get("input"), "input")
    if not isinstance(given, dict) or not isinstance(given.get("messages"), list):
        raise MalformedRow("input has no messages")
    messages: list[Message] = []
    if given.get("system"):
        messages.append({"role": "system", "content": _text(given["system"], "system")})
    for message in given["messages"]:
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ("user", "assistant"):
            raise MalformedRow("input has a message without a role of user, assistant")
        messages.append({"role": role, "content": _text(message.get("content"), "a message")})
    if not messages or messages[-1]["role"] != "user":
        raise MalformedRow("the last message of input must be the user's")
    reply = _text(_parsed(row.get("output"), "output"), "output")
    if not reply.strip():
        raise MalformedRow("output is empty")
    return messages, reply


def _parsed(value: Any, name: str) -> Any:
    """Returns a column of JSON, which most exports have as a text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise MalformedRow(f"{name} is no JSON") from None


def _text(value: Any, name: str) -> str:
    """Returns the text of a content: a text, or blocks of text."""
    if isinstance(value, str):
        return writable(value, name)
    parts = value if isinstance(value, list) else []
    blocks = [part.get("text", part.get("value")) for part in parts if isinstance(part, dict)]
    texts = [block for block in blocks if isinstance(block, str)]
    if not texts or len(texts) != len(parts):
        raise MalformedRow(f"{name} is more than text")
    return writable("\n".join(texts), name)


def _person(row: dict[str, Any]) -> str | None:
    tags = row.get("tags")
    tags = _parsed(tags, "tags") if isinstance(tags, str) else tags
    try:
        pairs = dict(tags or {})  # Parquet has a map as a list of pairs
    except (TypeError, ValueError):
        return None
    return next((_optional(pairs[name]) for name in _PEOPLE if name in pairs), None)


def _optional(value: Any) -> str | None:
    return writable(value, "a name") if isinstance(value, str) and value else None
