"""Rows that other applications export are read into judgements: with their people, models and reasons.

Open WebUI: the JSON of its evaluations' feedback. A rating of a message is a thumb; where one other reply to
the same message was compared with it, a ranking of the two.
LMArena: battles, with `conversation_a`, `conversation_b` and `winner`.
Argilla: see `feedback.argilla`.
"""

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from feedback.argilla import Argilla
from feedback.layouts import Judgement, Message, assistant
from feedback.row_messages import writable
from schemas.errors import MalformedRow

MAX_MESSAGES = 1_000
"""Messages of a conversation that are followed back."""

_NO_SLUG = re.compile(r"[^a-z0-9_-]+")
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class OpenWebUI:
    """The rows of Open WebUI's feedback export."""

    layout: ClassVar[str] = "Open WebUI's feedback"

    @classmethod
    def recognises(cls, row: Any) -> bool:
        return isinstance(row, dict) and {"type", "data", "snapshot"} <= row.keys()

    def __str__(self) -> str:
        return f"{self.layout}; each rating is its user's vote, with the reason and the model"

    def read(self, row: Any) -> Judgement:
        """Raises MalformedRow."""
        if not self.recognises(row):
            raise MalformedRow("it is no feedback of Open WebUI")
        data, meta = _object(row, "data"), _object(row, "meta")
        good = _rating(data.get("rating"))
        nodes, system = _messages(row)
        rated = _node(nodes, meta.get("message_id"))
        parent = _node(nodes, rated.get("parentId"))
        messages = _history(nodes, parent)
        if system:
            messages.insert(0, {"role": "system", "content": system})
        siblings = [
            each
            for each in nodes.values()
            if each.get("parentId") == rated.get("parentId") and each is not rated and _text(each).strip()
        ]
        reply, others = _reply(rated), [_text(each) for each in siblings]
        compared = bool(data.get("sibling_model_ids")) and len(others) == 1 and others[0] != reply
        replies = [reply, *(others if compared else [])]
        if compared and not good:
            replies.reverse()
        return Judgement(
            "preference" if compared else "unpaired",
            messages,
            [assistant(text) for text in replies],
            good,
            person=_optional_text(row.get("user_id")),
            model=_optional_text(data.get("model_id")),
            reasons=tuple(filter(None, [_slug(data.get("reason"))])),
            comment=_optional_text(data.get("comment")),
            key=_key("open webui", row.get("id")),
        )


@dataclass(frozen=True, slots=True)
class LMArena:
    """The rows of LMArena's battles."""

    layout: ClassVar[str] = "LMArena's battles"

    @classmethod
    def recognises(cls, row: Any) -> bool:
        return isinstance(row, dict) and {"conversation_a", "conversation_b", "winner"} <= row.keys()

    def __str__(self) -> str:
        return f"{self.layout}; `winner` ranks the two replies, and ties are ties"

    def read(self, row: Any) -> Judgement:
        """Raises MalformedRow."""
        if not self.recognises(row):
            raise MalformedRow("it is no battle of LMArena")
        verdict = _winner(row["winner"])
        sides = [_conversation(row[name], name) for name in ("conversation_a", "conversation_b")]
        (messages, one), (again, other) = sides
        if messages != again:
            raise MalformedRow("the two conversations differ before the last reply")
        if one == other:
            raise MalformedRow("the two replies are the same")
        replies = [other, one] if verdict == "b" else [one, other]
        return Judgement(
            "preference",
            messages,
            [assistant(text) for text in replies],
            tie=verdict in ("tie", "both bad"),
            acceptable=verdict != "both bad",
            person=_optional_text(row.get("judge")),
            key=_key("lmarena", row.get("question_id")),
            model=" ".join(str(row.get(name, "")) for name in ("model_a", "model_b")).strip() or None,
        )


AppExport = OpenWebUI | LMArena | Argilla


def application_of(row: Any, metric: str | None = None, threshold: float | None = None) -> AppExport | None:
    """Returns the application whose export has such rows; `metric` and `threshold` are Argilla's."""
    if Argilla.recognises(row):
        return Argilla(metric, threshold)
    return next((kind() for kind in (OpenWebUI, LMArena) if kind.recognises(row)), None)


def _object(row: dict[str, Any], name: str) -> dict[str, Any]:
    found = row.get(name)
    if not isinstance(found, dict):
        raise MalformedRow(f"{name} must be an object")
    return found


def _rating(value: Any) -> bool:
    """Returns whether a rating of 1 or -1 is good."""
    if str(value) not in ("1", "-1"):
        raise MalformedRow("the rating must be 1 or -1")
    return str(value) == "1"


def _messages(row: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Returns the messages of the chat by id, and its system message."""
    chat: Any = row["snapshot"]
    for _ in range(3):  # a snapshot has the chat's row, which has the chat itself
        history = chat.get("history") if isinstance(chat, dict) else None
        if isinstance(history, dict) and isinstance(history.get("messages"), dict):
            parameters = chat.get("params")
            system = parameters.get("system") if isinstance(parameters, dict) else None
            return history["messages"], _optional_text(system or chat.get("system"))
        chat = chat.get("chat") if isinstance(chat, dict) else None
    raise MalformedRow("there is no chat in its snapshot")


def _node(nodes: dict[str, Any], id: Any) -> dict[str, Any]:
    found = nodes.get(id) if isinstance(id, str) else None
    if not isinstance(found, dict):
        raise MalformedRow("its chat lacks the message, or the one before it")
    return found


def _history(nodes: dict[str, Any], last: dict[str, Any]) -> list[Message]:
    """Returns the messages from the first to `last`."""
    found: list[Message] = []
    node: dict[str, Any] | None = last
    while node is not None and len(found) < MAX_MESSAGES:
        if node.get("role") not in _ROLES:
            raise MalformedRow(f"its chat has a message without a role of {', '.join(_ROLES)}")
        found.insert(0, {"role": node["role"], "content": _text(node)})
        node = _node(nodes, node["parentId"]) if node.get("parentId") else None
    if found[-1]["role"] != "user":
        raise MalformedRow("the message before the reply must be the user's")
    return found


def _reply(node: dict[str, Any]) -> str:
    if node.get("role") != "assistant" or not _text(node).strip():
        raise MalformedRow("the rated message is no reply")
    return _text(node)


def _text(node: dict[str, Any]) -> str:
    content = node.get("content")
    return writable(content, "a message") if isinstance(content, str) else ""


def _optional_text(value: Any) -> str | None:
    return writable(value, "a field") if isinstance(value, str) and value.strip() else None


def _key(application: str, id: Any) -> str | None:
    return f"{application} {id}" if isinstance(id, str) else None


def _slug(value: Any) -> str:
    return _NO_SLUG.sub("-", value.lower()).strip("-")[:32] if isinstance(value, str) else ""


def _winner(value: Any) -> Literal["a", "b", "tie", "both bad"]:
    text = str(value).lower().removeprefix("model_").replace("_", " ")
    match text:
        case "a" | "b" | "tie":
            return text
        case "tie (bothbad)" | "both bad" | "bothbad":
            return "both bad"
    raise MalformedRow("winner must be model_a, model_b, tie, or tie (bothbad)")


def _conversation(value: Any, name: str) -> tuple[list[Message], str]:
    """Returns the messages of a conversation before its last reply, and that reply."""
    found = [
        {"role": each["role"], "content": _text(each)}
        for each in (value if isinstance(value, list) else [])
        if isinstance(each, dict) and each.get("role") in _ROLES and isinstance(each.get("content"), str)
    ]
    if not isinstance(value, list) or len(found) != len(value) or len(found) < 2:
        raise MalformedRow(f"{name} must be a list of messages with a text each")
    if found[-1]["role"] != "assistant" or not found[-1]["content"].strip():
        raise MalformedRow(f"{name} must end with a reply")
    return found[:-1], found[-1]["content"]
