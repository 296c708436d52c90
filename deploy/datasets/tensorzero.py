"""TensorZero's tables are joined into judgements: inferences with the feedback on them.

`ChatInference` beside `BooleanMetricFeedback` or `FloatMetricFeedback` gives thumbs, beside
`DemonstrationFeedback` preferences of the demonstration, and `CommentFeedback` their comments. Only text is
read.
"""

from collections.abc import Iterator
from typing import Any

from deploy.datasets.joined_tables import JoinedTables, Row, optional_text, parsed
from feedback.layouts import Judgement, Message, assistant
from feedback.row_messages import writable
from schemas.errors import MalformedRow

_PEOPLE = ("user_id", "user")
"""Tags that name the person."""


class TensorZero(JoinedTables):
    name = "TensorZero's tables"
    subjects = frozenset({"inferences"})

    @classmethod
    def table_of(cls, columns: set[str]) -> str | None:
        if {"function_name", "variant_name", "input", "output"} <= columns:
            return "inferences"
        if {"target_id", "metric_name", "value"} <= columns:
            return "metrics"
        if {"target_id", "target_type", "value"} <= columns:
            return "comments"
        return "demonstrations" if {"inference_id", "value"} <= columns else None

    def judgements(self) -> Iterator[tuple[int, Judgement | MalformedRow, int]]:
        self._read_feedback()
        number = 0
        for row in self.rows("inferences"):
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

    def _read_feedback(self) -> None:
        """The newest feedback on an inference counts: ids begin with their time (UUIDv7)."""
        self._values: dict[str, Any] = {}
        self._comments: dict[str, str] = {}
        self._demonstrations: dict[str, Any] = {}
        metrics = sorted(self.objects("metrics"), key=lambda row: str(row.get("id", "")))
        metric = self.chosen_metric(str(row.get("metric_name")) for row in metrics)
        for row in metrics:
            if str(row.get("metric_name")) == metric:
                self._values[str(row.get("target_id"))] = row.get("value")
        for row in self.objects("comments"):
            self._comments[str(row.get("target_id"))] = str(row.get("value"))
        for row in self.objects("demonstrations"):
            self._demonstrations[str(row.get("inference_id"))] = row.get("value")
        self.layout = f"{self.name}: {metric or 'demonstrations'} says which replies are good"

    def _thumb(self, id: str, row: Row) -> Judgement:
        messages, reply = _inference(row)
        comment = self._comments.get(id)
        return Judgement(
            "unpaired",
            messages,
            [assistant(reply)],
            self.good(self._values[id]),
            person=_person(row),
            model=optional_text(row.get("variant_name")),
            comment=writable(comment, "a comment") if comment else None,
            key=f"tensorzero {id}",
        )

    def _preference(self, id: str, row: Row) -> Judgement:
        messages, reply = _inference(row)
        better = _text(parsed(self._demonstrations[id], "the demonstration"), "the demonstration")
        if better == reply:
            raise MalformedRow("the demonstration is the reply itself")
        return Judgement(
            "preference",
            messages,
            [assistant(better), assistant(reply)],
            person=_person(row),
            model=optional_text(row.get("variant_name")),
            key=f"tensorzero demonstration {id}",
        )


def _inference(row: Row) -> tuple[list[Message], str]:
    """Returns the prompt and the reply of an inference."""
    given = parsed(row.get("input"), "input")
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
    reply = _text(parsed(row.get("output"), "output"), "output")
    if not reply.strip():
        raise MalformedRow("output is empty")
    return messages, reply


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


def _person(row: Row) -> str | None:
    tags = row.get("tags")
    tags = parsed(tags, "tags") if isinstance(tags, str) else tags
    try:
        pairs = dict(tags or {})  # Parquet has a map as a list of pairs
    except (TypeError, ValueError):
        return None
    return next((optional_text(pairs[name]) for name in _PEOPLE if name in pairs), None)
