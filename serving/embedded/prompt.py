"""The prompt of a chat is built by the tokenizer's own chat template, as token ids."""

from typing import Any

from jinja2 import TemplateError

from schemas.errors import InvalidRequest
from schemas.messages import parse_arguments
from serving.embedded.tools import calls_tools


def encode(
    tokenizer: Any,
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]] | None = None,
    arguments: dict[str, Any] | None = None,
) -> list[int]:
    """Returns the ids of the messages and of the reply's beginning; `arguments` are more variables of the
    template. Raises InvalidRequest."""
    if tools and not calls_tools(tokenizer.chat_template):
        raise InvalidRequest(
            "tools is not supported by the embedded engine with this model, whose chat template has none.",
            code="unsupported_parameter",
            param="tools",
        )
    plain = [_with_plain_text(message) for message in messages]
    given = {**(arguments or {}), "add_generation_prompt": True, "return_dict": False}
    try:
        encoded = tokenizer.apply_chat_template(plain, tools=tools, **given)
    except (TemplateError, TypeError, ValueError) as error:  # a template may not expect what it is given
        raise InvalidRequest(f"The model's chat template refuses this: {error}", param="messages") from error
    return list(encoded)


def _with_plain_text(message: dict[str, Any]) -> dict[str, Any]:
    """Returns the message with its content as one string, joined from its text parts."""
    content = message.get("content")
    if isinstance(content, list):
        if any(not isinstance(part, dict) or part.get("type") != "text" for part in content):
            raise InvalidRequest(
                "The embedded engine reads text only; leave images and other files out.",
                code="unsupported_parameter",
                param="messages",
            )
        content = "\n".join(str(part.get("text", "")) for part in content)
    if content is None and message.get("role") == "assistant":
        content = ""
    if not isinstance(content, str) or not isinstance(message.get("role"), str):
        raise InvalidRequest("Each message needs a role and a content.", param="messages")
    if any("\ud800" <= character <= "\udfff" for character in content):
        raise InvalidRequest("The content contains a lone surrogate (half a character).", param="messages")
    return parse_arguments({**message, "content": content})
