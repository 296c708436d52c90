"""Langfuse's exports are joined into judgements: people's scores with the generations that they are on.

The scores of a blob storage export, of the API or of the page, beside observations (enriched or not), traces,
or both. A score on a trace is on the trace's own output where that is a reply, else on its last generation.
Evaluators' scores are no person's, and refused.
"""

from collections.abc import Iterator
from typing import Any

from deploy.datasets.joined_tables import JoinedTables, Row, optional_text, parsed
from feedback.labels import is_number
from feedback.layouts import Judgement, Message, assistant
from feedback.row_messages import read_messages, read_tools, writable
from schemas.errors import MalformedRow

_ID = {"traceId": "trace_id", "observationId": "observation_id", "stringValue": "string_value"}
_ID |= {"dataType": "data_type", "authorUserId": "author_user_id", "userId": "user_id"}
_ID |= {"startTime": "start_time", "updatedAt": "updated_at", "providedModelName": "provided_model_name"}
"""The API's and the page's names of columns, and those of blob storage exports."""


class Langfuse(JoinedTables):
    name = "Langfuse's exports"
    subjects = frozenset({"observations", "traces"})

    @classmethod
    def table_of(cls, columns: set[str]) -> str | None:
        named = {_ID.get(column, column) for column in columns}
        if {"id", "name", "value", "trace_id", "source"} <= named:
            return "scores"
        if {"id", "trace_id", "type", "input", "output"} <= named:
            return "observations"
        return "traces" if {"id", "timestamp", "input", "output"} <= named else None

    def judgements(self) -> Iterator[tuple[int, Judgement | MalformedRow, int]]:
        on_observations, on_traces = self._scores()
        users: dict[str, Any] = {}
        whole: dict[str, Row] = {}
        """What the scores of each trace are on."""
        number = 0
        scored = {str(score.get("trace_id")) for found in on_observations.values() for score in found}
        for row in self.objects("traces"):
            id = str(row.get("id"))
            if id in scored or id in on_traces:
                users[id] = row.get("user_id")
            if id in on_traces and _is_conversation(row):
                whole[id] = row
        own = set(whole)
        for row in self.objects("observations"):
            trace = str(row.get("trace_id"))
            for score in on_observations.pop(str(row.get("id")), []):
                number += 1
                yield number, self._judged(score, row, users.get(trace)), 0
            if trace in on_traces and trace not in own and row.get("type") == "GENERATION":
                newest = max(whole.get(trace, row), row, key=lambda each: str(each.get("start_time")))
                whole[trace] = newest
        for trace, row in whole.items():
            for score in on_traces.pop(trace):
                number += 1
                yield number, self._judged(score, row, users.get(trace)), 0
        for id in (*on_observations, *on_traces):
            number += 1
            yield number, MalformedRow(f"the files have no generation {id}, on which there is a score"), 0

    def objects(self, table: str) -> Iterator[Row]:
        for row in super().objects(table):
            yield {_ID.get(name, name): value for name, value in row.items()}

    def _scores(self) -> tuple[dict[str, list[Row]], dict[str, list[Row]]]:
        """Returns the scores that judge, each in its newest form, by observation and by trace."""
        newest: dict[str, Row] = {}
        for row in self.objects("scores"):
            id = str(row.get("id"))
            newest[id] = max(newest.get(id, row), row, key=_written_at)
        metric = self.chosen_metric(str(row.get("name")) for row in newest.values())
        self.layout = f"{self.name}: the score {metric} says which replies are good"
        on_observations: dict[str, list[Row]] = {}
        on_traces: dict[str, list[Row]] = {}
        for row in newest.values():
            if str(row.get("name")) != metric:
                continue
            if row.get("observation_id"):
                on_observations.setdefault(str(row["observation_id"]), []).append(row)
            else:
                on_traces.setdefault(str(row.get("trace_id")), []).append(row)
        return on_observations, on_traces

    def _judged(self, score: Row, row: Row, user: Any) -> Judgement | MalformedRow:
        """Returns what a score says of a generation, or why it says nothing."""
        try:
            if score.get("source") == "EVAL":
                raise MalformedRow("it is an evaluator's score, and no person's")
            messages, reply, tools = _conversation(row)
            comment = score.get("comment")
            people = (score.get("author_user_id"), row.get("user_id"), user)
            return Judgement(
                "unpaired",
                messages,
                [reply],
                self.good(_value(score)),
                person=next(filter(None, map(optional_text, people)), None),
                model=optional_text(row.get("provided_model_name") or row.get("model")),
                comment=writable(comment, "a comment") if isinstance(comment, str) and comment else None,
                key=f"langfuse {score.get('id')}",
                tools=tools,
            )
        except MalformedRow as error:
            return error


def _written_at(score: Row) -> str:
    return str(score.get("updated_at") or score.get("timestamp") or "")


def _value(score: Row) -> Any:
    """Returns what a score says: a word, a truth value or a number."""
    word = score.get("string_value")
    if isinstance(word, str) and word:
        return word
    value: Any = score.get("value")
    return float(value) != 0 if score.get("data_type") == "BOOLEAN" and is_number(value) else value


def _is_conversation(row: Row) -> bool:
    try:
        _conversation(row)
    except MalformedRow:
        return False
    return True


def _conversation(row: Row) -> tuple[list[Message], Message, list[dict[str, Any]] | None]:
    """Returns the prompt of a generation, its reply, and the tools that it had."""
    given = _structure(row.get("input"))
    tools = None
    if isinstance(given, dict):
        tools = read_tools(given["tools"]) if given.get("tools") else None
        given = given.get("messages")
    if isinstance(given, str) and given.strip():
        messages = [{"role": "user", "content": writable(given, "input")}]
    else:
        messages = read_messages(given, "input")
    if messages[-1]["role"] not in ("user", "tool"):
        raise MalformedRow("the last message of input must be the user's, or a tool's")
    return messages, _reply(row.get("output"), messages), tools


def _reply(value: Any, messages: list[Message]) -> Message:
    found = _structure(value)
    if isinstance(found, dict) and found.keys() & {"role", "content", "tool_calls"}:
        found = [{"role": "assistant", **found}]
    if isinstance(found, list) and all(isinstance(each, dict) and "role" in each for each in found):
        replies = read_messages(found, "output", messages)
        if len(replies) != 1 or replies[0]["role"] != "assistant":
            raise MalformedRow("output must be one message of the assistant")
        return replies[0]
    text = found if isinstance(found, str) else value
    if not isinstance(text, str) or not text.strip():
        raise MalformedRow("output is no reply")
    return assistant(writable(text, "output"))


def _structure(value: Any) -> Any:
    """Returns JSON that an export has as a text; other text is text."""
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[", '"')):
        return value
    try:
        return parsed(value, "input")
    except MalformedRow:
        return value
