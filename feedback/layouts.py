"""Judgements are written as rows of TRL's dataset layouts; `dataset_rows` reads them.

preference           prompt, chosen, rejected       a ranking of two replies
unpaired             prompt, completion, label      a thumb
prompt-completion    prompt, completion             a good reply

A row is standard (texts) or conversational (lists of messages, and `tools` where the model had any). Reading
and writing a row returns the same row, except that an implicit prompt becomes explicit, and tool calls have
ids.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, assert_never, get_args

from schemas.messages import parse_arguments

Layout = Literal["preference", "unpaired", "prompt-completion"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

Message = dict[str, Any]
"""A message in the API's shape (`schemas.messages.Message`)."""


def assistant(text: str) -> Message:
    """Returns a reply that is only text."""
    return {"role": "assistant", "content": text}


@dataclass(frozen=True, slots=True)
class Judgement:
    """A prompt with judged replies: two with the preferred one first, or one and whether it is `good`.
    `standard` rows have texts instead of messages. What another application exports also has the `person` who
    judged, the `model` that replied, `reasons` and a `comment`, ties, pairs of which none was `acceptable`,
    and a `key` that stays the same in later exports. `tools` are those that the model had. A `demonstrated`
    reply is to be learned from, and not a vote."""

    layout: Layout
    messages: list[Message]
    replies: list[Message]
    good: bool = True
    standard: bool = False
    tie: bool = False
    acceptable: bool = True
    person: str | None = None
    model: str | None = None
    reasons: tuple[str, ...] = ()
    comment: str | None = None
    key: str | None = None
    tools: list[dict[str, Any]] | None = None
    demonstrated: bool = False

    @property
    def texts(self) -> list[str]:
        """Returns the texts of the replies."""
        return [reply.get("content") or "" for reply in self.replies]

    @property
    def told_apart(self) -> bool:
        """Returns whether the replies differ, in more than the ids of their tool calls."""
        return all(_without_ids(one) != _without_ids(other) for one, other in combinations(self.replies, 2))

    def row(self) -> dict[str, Any]:
        prompt: Any = self.messages[0]["content"] if self.standard else _written(self.messages)
        replies: list[Any] = self.texts if self.standard else [_written([reply]) for reply in self.replies]
        tools = {"tools": self.tools} if self.tools else {}
        match self.layout:
            case "preference":
                return {"prompt": prompt, "chosen": replies[0], "rejected": replies[1], **tools}
            case "unpaired":
                return {"prompt": prompt, "completion": replies[0], "label": self.good, **tools}
            case "prompt-completion":
                return {"prompt": prompt, "completion": replies[0], **tools}
            case _:
                assert_never(self.layout)


def _without_ids(reply: Message) -> Message:
    return reply | {"tool_calls": [call["function"] for call in reply.get("tool_calls", ())]}


def _written(messages: list[Message]) -> list[Message]:
    """Returns messages as TRL gives them to a chat template: the arguments of tool calls are objects."""
    return [parse_arguments(message) for message in messages]
