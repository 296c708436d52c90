"""Tool calls are read from a reply in the form that Hermes and Qwen write: JSON between two markers.

    <tool_call>
    {"name": "weather", "arguments": {"city": "Paris"}}
    </tool_call>

A chat template that takes `tools` and names the marker tells the model to write so.
"""

import json
import uuid
from typing import Any

OPEN, CLOSE = "<tool_call>\n", "\n</tool_call>"
_OPEN, _CLOSE = OPEN.strip(), CLOSE.strip()


def calls_tools(template: str | None) -> bool:
    """Returns whether a chat template takes tools and has them called in this form."""
    return template is not None and "tools" in template and _OPEN in template


class ToolCallParser:
    """Divides the text of one reply, as it comes, into content and tool calls. Text that may be the beginning
    of a marker is held back; a call that is not valid JSON is content."""

    def __init__(self, *, several: bool = True) -> None:
        self._several = several
        self._held = ""
        self.calls: list[dict[str, Any]] = []

    def push(self, text: str, *, ended: bool = False) -> tuple[str, list[dict[str, Any]]]:
        """Returns the new content and the calls that are complete with this text, as OpenAI's chunks have
        them."""
        self._held += text
        content, new = "", []
        while (at := self._held.find(_OPEN)) >= 0:
            end = self._held.find(_CLOSE, at)
            if end < 0 and not ended:
                break
            before, block = self._held[:at], self._held[at + len(_OPEN) : end if end >= 0 else None]
            after = self._held[end + len(_CLOSE) :] if end >= 0 else ""
            call = self._parse(block)
            whole = self._held[at : len(self._held) - len(after)]
            content += before.rstrip("\n") if call else before + whole
            if call and (self._several or not self.calls):
                self.calls.append(call)
                new.append({"index": len(self.calls) - 1, **call})
            self._held = after.lstrip("\n") if call else after
        certain = len(self._held) if ended else self._certain()
        content, self._held = content + self._held[:certain], self._held[certain:]
        return content, new

    def _certain(self) -> int:
        """Returns how much of the text held back cannot belong to a marker, or to the blanks around it."""
        at = self._held.find(_OPEN)
        if at < 0:
            sizes = range(min(len(_OPEN) - 1, len(self._held)), 0, -1)
            at = len(self._held) - next((size for size in sizes if self._held.endswith(_OPEN[:size])), 0)
        return len(self._held[:at].rstrip("\n"))

    def _parse(self, block: str) -> dict[str, Any] | None:
        try:
            found = json.loads(block)
        except ValueError:
            return None
        if not isinstance(found, dict) or not isinstance(found.get("name"), str):
            return None
        arguments = found.get("arguments", {})
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        function = {"name": found["name"], "arguments": text}
        return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}
