"""Judgements are written as rows of TRL's dataset layouts; `dataset_rows` reads them.

preference           prompt, chosen, rejected       a ranking of two replies
unpaired             prompt, completion, label      a thumb
prompt-completion    prompt, completion             a good reply

A row is standard (texts) or conversational (lists of messages). Reading and writing a row returns the same
row, except that an implicit prompt becomes explicit.
"""

from dataclasses import dataclass
from typing import Any, Literal, assert_never, get_args

Layout = Literal["preference", "unpaired", "prompt-completion"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Judgement:
    """A prompt with judged replies: two with the preferred one first, or one and whether it is `good`.
    `standard` rows have texts instead of messages. What another application exports also has the `person` who
    judged, the `model` that replied, `reasons` and a `comment`, ties, pairs of which none was `acceptable`,
    and a `key` that stays the same in later exports."""

    layout: Layout
    messages: list[Message]
    replies: list[str]
    good: bool = True
    standard: bool = False
    tie: bool = False
    acceptable: bool = True
    person: str | None = None
    model: str | None = None
    reasons: tuple[str, ...] = ()
    comment: str | None = None
    key: str | None = None

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
