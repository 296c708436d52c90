"""A streamed reply is one choice of a completion while it comes: text, thought, tool calls, and the tokens.

The engine's tokens are all kept, as training needs them. What a client sees of them ends where the content
ends: special tokens and a stop string have no text, so their log-probabilities are not shown.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from schemas.special_tokens import SpecialTokens
from serving.engine import Delta


@dataclass(slots=True)
class ShownDelta:
    """What a client sees of a delta: the message's new parts in OpenAI's names, and the log-probabilities of
    the text so far that were not shown yet."""

    choice: int
    message: dict[str, Any]
    logprobs: list[dict[str, Any]]
    finish_reason: str | None

    @property
    def text(self) -> str:
        return str(self.message.get("content", ""))


@dataclass(slots=True)
class StreamedReply:
    """The reply so far. `has_stops` says whether a stop string may end it, `legacy_functions` that it is
    answered in the former form of tool calls, `show_reasoning` that thoughts are shown."""

    special_tokens: SpecialTokens
    has_stops: bool
    legacy_functions: bool
    show_reasoning: bool
    token_ids: list[int] = field(default_factory=list)
    token_logprobs: list[float] = field(default_factory=list)
    shown_logprobs: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str = ""
    _text: list[str] = field(default_factory=list)
    _reasoning: list[str] = field(default_factory=list)
    _tool_calls: list[dict[str, Any]] = field(default_factory=list)
    _waiting: deque[dict[str, Any]] = field(default_factory=deque)
    _bytes: int = 0  # of the text so far, less those of the log-probabilities shown

    def add(self, delta: Delta) -> ShownDelta:
        """Adds the engine's delta; returns what the client sees of it."""
        text = _storable(delta.text)
        self._text.append(text)
        self._reasoning.append(_storable(delta.reasoning))
        for call in delta.tool_calls:
            self._add_tool_call(call)
        self.token_ids += delta.token_ids
        self.token_logprobs += [item["logprob"] for item in delta.logprobs]
        self.finish_reason = self._named(delta.finish_reason) or self.finish_reason
        shown = self._shown(text, delta)
        self.shown_logprobs += shown
        return ShownDelta(
            delta.choice, self._message_delta(text, delta), shown, self._named(delta.finish_reason)
        )

    @property
    def text(self) -> str:
        return "".join(self._text)

    def message(self) -> dict[str, Any]:
        """Returns the message as it is sent in a whole response."""
        message = {"role": "assistant", "content": self.text, "refusal": None}
        if not self.show_reasoning:
            return message | self._called()
        return message | self._thought() | self._called()

    def shown(self) -> ShownDelta:
        """Returns all that the client sees, as one delta."""
        thought = self._thought() if self.show_reasoning else {}
        calls = [{"index": index, **call} for index, call in enumerate(self._tool_calls)]
        message = {"content": self.text, **thought, **({"tool_calls": calls} if calls else {})}
        return ShownDelta(0, message, self.shown_logprobs, self.finish_reason)

    def recorded(self) -> dict[str, Any] | None:
        """Returns the whole message for the record; None where it is only text."""
        more = self._thought() | ({"tool_calls": self._tool_calls} if self._tool_calls else {})
        return {"role": "assistant", "content": self.text, **more} if more else None

    def _thought(self) -> dict[str, Any]:
        thought = "".join(self._reasoning)
        return {"reasoning_content": thought} if thought else {}

    def _called(self) -> dict[str, Any]:
        if not self._tool_calls:
            return {}
        content = {} if self.text else {"content": None}
        if self.legacy_functions:
            return {**content, "function_call": self._tool_calls[0]["function"]}
        return {**content, "tool_calls": self._tool_calls}

    def _message_delta(self, text: str, delta: Delta) -> dict[str, Any]:
        found: dict[str, Any] = {"content": text} if text else {}
        if delta.reasoning and self.show_reasoning:
            found["reasoning_content"] = _storable(delta.reasoning)
        if delta.tool_calls and self.legacy_functions:
            found["function_call"] = delta.tool_calls[0]["function"]
        elif delta.tool_calls:
            found["tool_calls"] = delta.tool_calls
        return found

    def _add_tool_call(self, part: dict[str, Any]) -> None:
        """Adds a piece of a tool call, in the form of OpenAI's chunks: the first has the id and the name."""
        index = part.get("index", 0)
        while len(self._tool_calls) <= index:
            self._tool_calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
        call, function = self._tool_calls[index], part.get("function") or {}
        call["id"] = part.get("id") or call["id"]
        call["function"]["name"] += _storable(function.get("name") or "")
        call["function"]["arguments"] += _storable(function.get("arguments") or "")

    def _shown(self, text: str, delta: Delta) -> list[dict[str, Any]]:
        self._waiting += [item for item in delta.logprobs if item["token"] not in self.special_tokens.special]
        self._bytes += len(text.encode())
        found = []
        if self.has_stops and not self._tool_calls and not any(self._reasoning):
            ended = delta.finish_reason == "length"
            while self._waiting and (ended or _size(self._waiting[0]) <= self._bytes):
                found.append(self._waiting.popleft())
                self._bytes -= _size(found[-1])
        else:
            found = list(self._waiting)
            self._waiting.clear()
        return found

    def _named(self, finish_reason: str | None) -> str | None:
        return "function_call" if self.legacy_functions and finish_reason == "tool_calls" else finish_reason


def _size(item: dict[str, Any]) -> int:
    raw = item.get("bytes")
    return len(item["token"].encode() if raw is None else raw)


def _storable(text: str) -> str:
    """Returns the text without NUL, which a byte-level model can generate and Postgres cannot store."""
    return text.replace("\0", "\ufffd")
