"""The prompt of a chat is built by the tokenizer's own chat template, as token ids."""

from typing import Any

from jinja2 import TemplateError

from schemas.errors import InvalidRequest


def encode(tokenizer: Any, messages: list[dict[str, Any]]) -> list[int]:
    """Returns the ids of the messages and of the reply's beginning. Raises InvalidRequest."""
    plain = [_with_plain_text(message) for message in messages]
    try:
        encoded = tokenizer.apply_chat_template(plain, add_generation_prompt=True, return_dict=False)
    except TemplateError as error:
        raise InvalidRequest(f"The model's chat template refuses this: {error}", param="messages") from error
    return list(encoded)


def _with_plain_text(message: dict[str, Any]) -> dict[str, Any]:
    """Returns the message with its content as one string, joined from its text parts."""
    content = message.get("content")
    if isinstance(content, list):
        if any(not isinstance(part, dict) or part.get("type") != "text" for part in content):
            raise InvalidRequest(
                "The embedded engine supports text parts only.",
                code="unsupported_parameter",
                param="messages",
            )
        content = "\n".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str) or not isinstance(message.get("role"), str):
        raise InvalidRequest("Each message needs a role and a content.", param="messages")
    if any("\ud800" <= character <= "\udfff" for character in content):
        raise InvalidRequest("The content contains a lone surrogate (half a character).", param="messages")
    return {**message, "content": content}
