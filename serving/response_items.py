"""The output of a response is a list of items, thoughts, text and tool calls, with events while it streams
(OpenAI's Responses API)."""

from collections.abc import Iterator
from typing import Any

from serving.streamed_reply import ShownDelta

Event = dict[str, Any]


class ResponseItems:
    """The items of one response so far. Each method yields the events of what it adds."""

    def __init__(self, id: str, *, show_logprobs: bool) -> None:
        self.items: list[dict[str, Any]] = []
        self._show_logprobs = show_logprobs
        self._logprobs: list[dict[str, Any]] = []  # of a character that is not yet complete
        self._id = id
        self._open = ""  # the type of the item that is not yet complete
        self._call: int | None = None  # the number of the tool call that it is

    def add(self, delta: ShownDelta) -> Iterator[Event]:
        """Adds what the client sees of a delta."""
        if thought := delta.message.get("reasoning_content"):
            yield from self._ensure("reasoning")
            self._part["text"] += thought
            yield self._event("reasoning_text.delta", content_index=0, delta=thought)
        self._logprobs += delta.logprobs if self._show_logprobs else []
        if delta.text:
            yield from self._ensure("message")
            logprobs, self._logprobs = self._logprobs, []
            self._part["text"] += delta.text
            self._part["logprobs"] += logprobs
            yield self._event("output_text.delta", content_index=0, delta=delta.text, logprobs=logprobs)
        for part in delta.message.get("tool_calls", ()):
            yield from self._add_call(part)

    def finish(self) -> Iterator[Event]:
        """Completes the last item; a reply without any is an empty message."""
        if not self.items:
            yield from self._ensure("message")
        yield from self._close()

    @property
    def _item(self) -> dict[str, Any]:
        return self.items[-1]

    @property
    def _part(self) -> dict[str, Any]:
        part: dict[str, Any] = self._item["content"][0]
        return part

    def _ensure(self, kind: str) -> Iterator[Event]:
        if self._open != kind:
            yield from self._close()
            yield from self._begin(kind)

    def _begin(self, kind: str, **fields: Any) -> Iterator[Event]:
        prefix = {"reasoning": "rs", "message": "msg", "function_call": "fc"}[kind]
        item: dict[str, Any] = {"id": f"{prefix}_{self._id}_{len(self.items)}", "type": kind}
        item |= {"status": "in_progress", **fields}
        part: dict[str, Any] | None = None
        if kind == "message":
            item |= {"role": "assistant", "content": []}
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        elif kind == "reasoning":
            item |= {"summary": [], "content": []}
            part = {"type": "reasoning_text", "text": ""}
        self.items.append(item)
        self._open = kind
        yield {"type": "response.output_item.added", "output_index": len(self.items) - 1, "item": _copy(item)}
        if part is not None:
            item["content"] = [part]
            yield self._event("content_part.added", content_index=0, part=dict(part))

    def _close(self) -> Iterator[Event]:
        if not self._open:
            return
        item = self._item
        if self._open == "function_call":
            yield self._event("function_call_arguments.done", name=item["name"], arguments=item["arguments"])
        else:
            text = {"text": self._part["text"]}
            if self._open == "message":
                yield self._event(
                    "output_text.done", content_index=0, logprobs=self._part["logprobs"], **text
                )
            else:
                yield self._event("reasoning_text.done", content_index=0, **text)
            yield self._event("content_part.done", content_index=0, part=dict(self._part))
        item["status"] = "completed"
        yield {"type": "response.output_item.done", "output_index": len(self.items) - 1, "item": _copy(item)}
        self._open, self._call = "", None

    def _add_call(self, part: dict[str, Any]) -> Iterator[Event]:
        function = part.get("function") or {}
        if self._open != "function_call" or self._call != part["index"]:
            yield from self._close()
            name, call_id = function.get("name", ""), part.get("id", "")
            yield from self._begin("function_call", call_id=call_id, name=name, arguments="")
            self._call = part["index"]
        if arguments := function.get("arguments"):
            self._item["arguments"] += arguments
            yield self._event("function_call_arguments.delta", delta=arguments)

    def _event(self, kind: str, **fields: Any) -> Event:
        place = {"item_id": self._item["id"], "output_index": len(self.items) - 1}
        return {"type": f"response.{kind}", **place, **fields}


def message_items(id: str, message: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns an assistant's whole message, whose content is text or null, as items."""
    found = ResponseItems(id, show_logprobs=False)
    calls = [{"index": index, **call} for index, call in enumerate(message.get("tool_calls", ()))]
    whole = {**message, "content": message.get("content") or "", "tool_calls": calls}
    list(found.add(ShownDelta(0, whole, [], None)))
    list(found.finish())
    return found.items


def _copy(item: dict[str, Any]) -> dict[str, Any]:
    return {
        name: [dict(part) for part in value] if name == "content" else value for name, value in item.items()
    }
