"""Rows of data sets are read into judgements: TRL's layouts as TRL takes them, and their nearest kin.

preference           prompt, chosen, rejected       question for prompt, and system (Orca's columns)
unpaired             prompt, completion, label      labels or desirable for label; a rating, with a threshold
prompt-completion    prompt, completion             a good reply

Conversations may have tool calls with their results, and thoughts; the column `tools` has the tools. A
preference may leave out `prompt` (an implicit prompt): then chosen and rejected begin alike, as
conversations, as hh-rlhf's dialogues in one text, or as plain texts. A file has the layout of its first row;
a column that rates a reply is used, or refused, and never passed over.
"""

import math
import re
from dataclasses import dataclass, replace
from os.path import commonprefix
from typing import Any

from feedback.layouts import Judgement, Layout, Message, assistant
from feedback.row_messages import read_messages, read_tools, writable
from schemas.errors import MalformedRow

_PROMPTS = ("prompt", "question")
_SYSTEMS = ("system", "system_prompt")
_LABELS = ("label", "labels", "desirable")
_RATINGS = ("rating", "ratings", "score", "stars", "reward", "overall_score")
_ASKING = ("user", "tool")
"""Roles of the last message of a prompt."""
_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a file hold what. Without `prompt`, what both replies begin with is the prompt. A
    `rating` of at least `threshold` is good."""

    layout: Layout
    prompt: str | None
    system: str | None = None
    label: str | None = None
    rating: str | None = None
    threshold: float | None = None
    tools: bool = False

    def __str__(self) -> str:
        prompt = (
            f"the prompt is `{self.prompt}`" if self.prompt else "the prompt is what both replies begin with"
        )
        parts = [self.layout, prompt]
        if self.system:
            parts.append(f"the system message is `{self.system}`")
        if self.label:
            parts.append(f"`{self.label}` says whether the reply is good")
        if self.rating:
            parts.append(f"a reply is good from a `{self.rating}` of {self.threshold:g}")
        if self.tools:
            parts.append("the tools are `tools`")
        return "; ".join(parts)

    def read(self, row: Any) -> Judgement:
        """Returns the judgement in a row, whose prompt may be null. Raises MalformedRow, also for a row that
        is judged in another way than the first."""
        own = columns_of(row, self.threshold)
        if (own.layout, own.label, own.rating) != (self.layout, self.label, self.rating):
            raise MalformedRow(f"it is judged in another way than the first row: {own}")
        found = own._judgement(row)
        if not own.tools:
            return found
        return replace(found, standard=False, tools=read_tools(row["tools"]))

    def _judgement(self, row: dict[str, Any]) -> Judgement:
        if self.layout == "preference":
            return self._preference(row)
        messages, standard = self._prompt(row, row["completion"])
        reply, in_text = _reply(row["completion"], messages, "completion")
        _check_alike(standard, in_text)
        return Judgement(self.layout, messages, [reply], self._good(row), standard and not self.system)

    def _preference(self, row: dict[str, Any]) -> Judgement:
        chosen, rejected = row["chosen"], row["rejected"]
        if self.prompt is None:
            messages, replies, standard = _implicit(chosen, rejected)
            messages = self._with_system(row, messages)
        else:
            messages, standard = self._prompt(row, chosen)
            read = [
                _reply(value, messages, name) for name, value in (("chosen", chosen), ("rejected", rejected))
            ]
            replies = [reply for reply, _ in read]
            _check_alike(standard, *(in_text for _, in_text in read))
        found = Judgement(self.layout, messages, replies, standard=standard and not self.system)
        if not found.told_apart:
            raise MalformedRow("chosen and rejected are the same")
        return found

    def _prompt(self, row: dict[str, Any], reply: Any) -> tuple[list[Message], bool]:
        """Returns the messages of the prompt, and whether it is a text. A text beside whole conversations is
        the user's first message of those."""
        value = row.get(self.prompt or "prompt")
        if isinstance(value, str) and isinstance(reply, list) and len(reply) > 1:
            messages, _ = _split(reply, "chosen" if self.layout == "preference" else "completion")
            first = next((each["content"] for each in messages if each["role"] == "user"), "")
            if first.strip() != value.strip():
                raise MalformedRow("the conversations do not begin with the prompt")
            return self._with_system(row, messages), False
        if isinstance(value, str):
            if not value.strip():
                raise MalformedRow("prompt is empty")
            messages = [{"role": "user", "content": writable(value, "prompt")}]
            return self._with_system(row, messages), True
        messages = read_messages(value, "prompt")
        if messages[-1]["role"] not in _ASKING:
            raise MalformedRow("the last message of prompt must be the user's, or a tool's")
        return self._with_system(row, messages), False

    def _with_system(self, row: dict[str, Any], messages: list[Message]) -> list[Message]:
        """Returns the messages after the system message of the row, if it has one and they have none."""
        value = row[self.system] if self.system else ""
        if not isinstance(value, str):
            raise MalformedRow(f"{self.system} must be a text")
        if not value.strip() or messages[0]["role"] == "system":
            return messages
        return [{"role": "system", "content": writable(value, "system")}, *messages]

    def _good(self, row: dict[str, Any]) -> bool:
        if self.rating:
            return _number(row[self.rating], self.rating) >= (self.threshold or 0.0)
        return _truth(row[self.label], self.label) if self.label else True


def columns_of(row: Any, threshold: float | None = None) -> Columns:
    """Returns what the columns of a row mean. Raises MalformedRow for those that mean nothing, or that rate a
    reply in a way that has to be said."""
    if not isinstance(row, dict):
        raise MalformedRow("it is no object")
    given = {name for name, value in row.items() if value is not None}
    if row.get("chat_template_kwargs"):
        raise MalformedRow("chat_template_kwargs changes what the template writes; leave it out")

    def first(names: tuple[str, ...]) -> str | None:
        return next((name for name in names if name in given), None)

    prompt, system, tools = first(_PROMPTS), first(_SYSTEMS), "tools" in given
    if {"chosen", "rejected"} <= row.keys():
        return Columns("preference", prompt, system, tools=tools)
    if "completion" not in row:
        raise MalformedRow("it has neither chosen and rejected nor completion")
    label, rating = first(_LABELS), first(_RATINGS)
    if label is None and rating is not None:
        if threshold is None:
            raise MalformedRow(f"{rating} rates the reply: say from which value on it is good (--threshold)")
        return Columns("unpaired", prompt or "prompt", system, None, rating, threshold, tools)
    layout: Layout = "prompt-completion" if label is None else "unpaired"
    return Columns(layout, prompt or "prompt", system, label, tools=tools)


def read(row: Any) -> Judgement:
    """Returns the judgement in a row of a file of which nothing else is known. Raises MalformedRow."""
    return columns_of(row).read(row)


def _number(value: Any, name: str) -> float:
    """Returns a rating, which a CSV file has as a text."""
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if math.isnan(found):
        raise MalformedRow(f"{name} must be a number")
    return found


def _truth(value: Any, name: str) -> bool:
    """Returns the truth that a label says: true and false, 1 and 0, or these as texts."""
    if isinstance(value, bool):
        return value
    text = f"{value:g}" if isinstance(value, int | float) else str(value).strip().lower()
    if text not in _TRUTH:
        raise MalformedRow(f"{name} must be true or false")
    return _TRUTH[text]


def _implicit(chosen: Any, rejected: Any) -> tuple[list[Message], list[Message], bool]:
    """Returns the common prompt of two replies, the replies, and whether they are texts."""
    in_text = isinstance(chosen, str) and isinstance(rejected, str)
    if in_text and not (_TURN.match(chosen) and _TURN.match(rejected)):
        prompt = commonprefix([chosen, rejected])  # noqa: RUF071 - of texts, not of paths
        prompt = prompt[: prompt.rfind(" ") + 1].rstrip()  # as TRL: a word is not divided
        if not prompt.strip():
            raise MalformedRow("there is no column prompt, and chosen and rejected do not begin alike")
        texts = [writable(each[len(prompt) :], "a reply") for each in (chosen, rejected)]
        if not all(text.strip() for text in texts):
            raise MalformedRow("chosen or rejected is only what both begin with")
        messages = [{"role": "user", "content": writable(prompt, "prompt")}]
        return messages, [assistant(text) for text in texts], True
    found = [
        _split(_dialogue(value, name) if isinstance(value, str) else value, name)
        for name, value in (("chosen", chosen), ("rejected", rejected))
    ]
    (messages, one), (again, other) = found
    if messages != again:
        raise MalformedRow("chosen and rejected do not begin alike")
    return messages, [_reply([one], [], "chosen")[0], _reply([other], [], "rejected")[0]], False


def _dialogue(text: str, name: str) -> list[Message]:
    """Returns the messages of a dialogue in one text, as hh-rlhf has it."""
    _, *parts = _TURN.split(text)
    if not parts:
        raise MalformedRow(f"{name} must be a dialogue of Human and Assistant")
    speakers, said = parts[::2], parts[1::2]
    return [
        {"role": _SPEAKERS[speaker], "content": writable(each.strip(), name)}
        for speaker, each in zip(speakers, said, strict=True)
    ]


def _check_alike(*in_text: bool) -> None:
    if len(set(in_text)) > 1:
        raise MalformedRow("it has texts beside lists of messages")


def _reply(value: Any, prompt: list[Message], name: str) -> tuple[Message, bool]:
    """Returns a reply, and whether it was given as a text. A conversation may begin with the prompt."""
    if isinstance(value, str):
        reply = assistant(writable(value, name))
    else:
        alone = isinstance(value, list) and len(value) == 1
        messages = read_messages(value, name, prompt if alone else ())
        without_system = [message for message in prompt if message["role"] != "system"]
        if len(messages) > 1 and messages[:-1] in (prompt, without_system):
            messages = messages[-1:]
        if len(messages) != 1 or messages[0]["role"] != "assistant":
            raise MalformedRow(f"{name} must be one message of the assistant")
        reply = messages[0]
    if not (reply.get("content") or "").strip() and "tool_calls" not in reply:
        raise MalformedRow(f"{name} is empty")
    return reply, isinstance(value, str)


def _split(value: Any, name: str) -> tuple[list[Message], Message]:
    messages = read_messages(value, name)
    if len(messages) < 2:
        raise MalformedRow(f"without a prompt, {name} must be a whole conversation")
    return messages[:-1], messages[-1]
