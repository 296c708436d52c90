"""The input items of a response are the messages before it in the words of OpenAI's Responses API (the
inverse of `schemas.responses`)."""

from collections.abc import Iterator
from typing import Any

from schemas.turns import StoredTurn, bare_id
from serving.response_items import message_items

Item = dict[str, Any]


def input_items(turn: StoredTurn) -> list[Item]:
    """Returns the items of the input, oldest first, those of previous responses included."""
    return [
        item
        for number, message in enumerate(turn.conversation)
        for item in _items(f"{bare_id(turn.id)}_input_{number}", message)
    ]


def _items(id: str, message: dict[str, Any]) -> Iterator[Item]:
    content = message.get("content")
    if message["role"] == "assistant" and not isinstance(content, list):
        yield from message_items(id, message)
        return
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    shown = [_part(part) for part in parts]
    if message["role"] == "tool":
        output = shown if isinstance(content, list) else content
        yield {
            "id": f"fco_{id}",
            "type": "function_call_output",
            "call_id": message["tool_call_id"],
            "output": output,
            "status": "completed",
        }
    else:
        item = {"id": f"msg_{id}", "type": "message", "role": message["role"], "status": "completed"}
        yield {**item, "content": shown}


def _part(part: Item) -> Item:
    match part["type"]:
        case "text" | "refusal":
            return {"type": "input_text", "text": part[part["type"]]}
        case "image_url":
            return {"type": "input_image", "detail": "auto", "image_url": part["image_url"].get("url")}
        case "file":
            return {"type": "input_file", **part["file"]}
        case _:
            return part
