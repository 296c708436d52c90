"""TRL's dataset layouts are read into judgements, and judgements are written as their rows.

preference           prompt, chosen, rejected       a ranking of two replies
unpaired             prompt, completion, label      a thumb
prompt-completion    prompt, completion             a good reply

A row is standard (texts) or conversational (lists of messages). A preference may leave out `prompt` (an
implicit prompt): then chosen and rejected are whole conversations with a common beginning. Reading and
writing a row returns the same row, except that an implicit prompt becomes explicit.
"""

from dataclasses import dataclass
from typing import Any, Literal, assert_never, get_args

from schemas.errors import MalformedRow

Layout = Literal["preference", "unpaired", "prompt-completion"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

Message = dict[str, str]
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Judgement:
    """A prompt with judged replies: two with the preferred one first, or one and whether it is `good`.
    `standard` rows have texts instead of messages."""

    layout: Layout
    messages: list[Message]
    replies: list[str]
    good: bool = True
    standard: bool = False

    def row(self) -> dict[str, Any]:
        prompt: Any = self.messages[0]["content"] if self.standard else self.messages
        replies: list[Any] = list(self.replies)
        if not self.standard:
            replies = [[{"role": "assistant", "content": reply}] for reply in self.replies]
        match self.layout:
            case "preference":
                return {"prompt": prompt, "chosen": replies[0], "rejected": replies[1]}
            case "unpaired":
                return {"prompt": prompt, "completion": replies[0], "label": self.good}
            case "prompt-completion":
                return {"prompt": prompt, "completion": replies[0]}
            case _:
                assert_never(self.layout)


def layout_of(row: dict[str, Any]) -> Layout:
    """Returns the layout that a row's columns belong to. Raises MalformedRow."""
    if {"chosen", "rejected"} <= row.keys():
        return "preference"
    if "completion" in row:
        return "unpaired" if "label" in row else "prompt-completion"
    raise MalformedRow("it has neither chosen and rejected nor completion")


def read(row: Any) -> Judgement:
    """Returns the judgement in a row. Raises MalformedRow."""
    if not isinstance(row, dict):
        raise MalformedRow("it is no object")
    layout = layout_of(row)
    if layout == "preference":
        whole = "prompt" not in row
        prompt, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
        if whole:
            prompt, chosen = _split(chosen, "chosen")
            again, rejected = _split(rejected, "rejected")
            if prompt != again:
                raise MalformedRow("chosen and rejected do not begin alike")
        replies = [_reply(chosen, "chosen"), _reply(rejected, "rejected")]
        if replies[0] == replies[1]:
            raise MalformedRow("chosen and rejected are the same")
        messages = _prompt(prompt)
        return Judgement(layout, messages, replies, standard=_standard(prompt, chosen, rejected))
    good = row.get("label", True)
    if not isinstance(good, bool):
        raise MalformedRow("label must be true or false")
    prompt = row.get("prompt")
    replies = [_reply(row["completion"], "completion")]
    messages = _prompt(prompt)
    return Judgement(layout, messages, replies, good, _standard(prompt, row["completion"]))


def _standard(*values: Any) -> bool:
    """Returns whether the values are texts instead of lists of messages."""
    kinds = {isinstance(value, str) for value in values}
    if len(kinds) > 1:
        raise MalformedRow("it has texts beside lists of messages")
    return kinds.pop()


def _prompt(value: Any) -> list[Message]:
    if isinstance(value, str):
        if not value.strip():
            raise MalformedRow("prompt is empty")
        return [{"role": "user", "content": _writable(value, "prompt")}]
    messages = _messages(value, "prompt")
    if messages[-1]["role"] != "user":
        raise MalformedRow("the last message of prompt must be the user's")
    return messages


def _reply(value: Any, name: str) -> str:
    if not isinstance(value, str):
        messages = _messages(value, name)
        if len(messages) != 1 or messages[0]["role"] != "assistant":
            raise MalformedRow(f"{name} must be one message of the assistant")
        value = messages[0]["content"]
    if not value.strip():
        raise MalformedRow(f"{name} is empty")
    return _writable(value, name)


def _split(value: Any, name: str) -> tuple[list[Message], list[Message]]:
    messages = _messages(value, name)
    if len(messages) < 2:
        raise MalformedRow(f"without a prompt, {name} must be a whole conversation")
    return messages[:-1], messages[-1:]


def _messages(value: Any, name: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise MalformedRow(f"{name} must be a text or a list of messages")
    for message in value:
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise MalformedRow(f"{name} has a message without a role of {', '.join(_ROLES)}")
        if not isinstance(message.get("content"), str):
            raise MalformedRow(f"{name} has a message whose content is no text")
        _writable(message["content"], name)
    return [{"role": message["role"], "content": message["content"]} for message in value]


def _writable(text: str, name: str) -> str:
    """Returns `text` if Postgres can store it."""
    if "\0" in text:
        raise MalformedRow(f"{name} holds a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise MalformedRow(f"{name} holds half a surrogate pair") from None
    return text
