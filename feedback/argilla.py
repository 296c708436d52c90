"""Records that Argilla exports are read into one judgement for each person who answered.

A record has `fields`, the prompt and the replies, and `responses` to its questions, as it is or flattened. A
rating or a label is a thumb, a ranking of the replies gives its pairs, a text that corrects the reply is
preferred to it, and a comment goes with its person's judgements. Only submitted responses count, where the
export says so.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar, NamedTuple

from feedback.labels import is_good, says_plainly
from feedback.layouts import Judgement, Message, assistant
from feedback.row_messages import read_messages, writable
from schemas.errors import MalformedRow

_PROMPTS = ("prompt", "instruction", "question", "input", "query", "conversation", "chat", "messages")
_MODELS = ("model", "model_name", "generation_model")
_REPLY = re.compile(r"(response|completion|reply|answer|output|generation)s?[ _-]?(\w{1,2}|\d+)?", re.I)
_COMMENT = re.compile(r"(\w+_)?(comments?|feedback|rationale|reasons?|explanation|notes?)", re.I)
_CORRECTION = re.compile(
    r"correction|edit|rewrite|((correct(ed)?|edited|rewritten|improved|better|ideal|gold(en)?)[ _-]?)?"
    r"(response|completion|reply|answer|output|generation|text)",
    re.I,
)
_RESPONSES = ".responses"


class _Answer(NamedTuple):
    """A person's response to a question."""

    question: str
    value: Any
    person: str | None


@dataclass(frozen=True, slots=True)
class Argilla:
    """The records of an Argilla dataset. `question` is the one that judges, where there are several; a rating
    of at least `threshold` is good."""

    layout: ClassVar[str] = "Argilla's records"

    question: str | None = None
    threshold: float | None = None

    @classmethod
    def recognises(cls, row: Any) -> bool:
        if not isinstance(row, dict):
            return False
        nested = isinstance(row.get("fields"), dict) and isinstance(row.get("responses"), dict)
        return nested or any(name.endswith(_RESPONSES) for name in row)

    def __str__(self) -> str:
        judged = f"`{self.question}` judges" if self.question else "each question that judges"
        return f"{self.layout}; {judged}, by each person who answered it"

    def read(self, row: Any) -> list[Judgement]:
        """Returns the judgements of a record. Raises MalformedRow."""
        if not self.recognises(row):
            raise MalformedRow("it is no record of Argilla")
        answers = [each for each in _answers(row) if each.value is not None]
        if not answers:
            raise MalformedRow("nobody has submitted a response to it")
        messages, replies = _conversation(row)
        comments = {each.person: each.value for each in answers if _is_comment(each)}
        judging = [each for each in answers if not _is_comment(each)]
        corrections = [each for each in judging if _is_correction(each)]
        judging = [each for each in judging if each not in corrections]
        if self.question is not None:
            judging = [each for each in judging if each.question == self.question]
        names = sorted({each.question for each in judging})
        if len(names) > 1:
            raise MalformedRow(f"say which of its questions judges (--metric): {', '.join(names)}")
        found = []
        for answer in (*judging, *corrections):
            comment = comments.get(answer.person)
            for place, judged in enumerate(self._judged(answer, messages, replies)):
                key = f"argilla {row.get('id')} {answer.question} {answer.person} {place}"
                found.append(
                    Judgement(
                        **judged,
                        messages=messages,
                        person=answer.person,
                        model=_model(row),
                        comment=writable(comment, "a comment") if isinstance(comment, str) else None,
                        key=key if row.get("id") else None,
                    )
                )
        if not found:
            raise MalformedRow("no response to it says whether a reply is good")
        return found

    def _judged(
        self, answer: _Answer, messages: list[Message], replies: dict[str, Message]
    ) -> Iterator[dict[str, Any]]:
        """Yields the fields of each judgement that an answer means."""
        if _is_correction(answer):
            better = assistant(writable(answer.value, answer.question))
            others = [reply for reply in replies.values() if reply != better]
            if len(replies) == 1 and others:
                yield {"layout": "preference", "replies": [better, others[0]]}
            elif not replies:
                yield {"layout": "prompt-completion", "replies": [better]}
        elif _is_ranking(answer.value):
            ranks = {str(each.get("value")): each["rank"] for each in answer.value}
            if not ranks.keys() <= replies.keys():
                raise MalformedRow(f"{answer.question} ranks what is no reply: {', '.join(sorted(ranks))}")
            for one, other in combinations(sorted(ranks, key=lambda name: ranks[name]), 2):
                pair = [replies[one], replies[other]]
                if pair[0] != pair[1]:
                    yield {"layout": "preference", "replies": pair, "tie": ranks[one] == ranks[other]}
        elif isinstance(answer.value, str) and answer.value in replies and len(replies) == 2:
            other = next(name for name in replies if name != answer.value)
            yield {"layout": "preference", "replies": [replies[answer.value], replies[other]]}
        else:
            reply = _rated(answer.question, replies)
            good = is_good(answer.value, answer.question, self.threshold)
            yield {"layout": "unpaired", "replies": [reply], "good": good}


def _answers(row: dict[str, Any]) -> Iterator[_Answer]:
    """Yields the responses that were submitted, as far as the record says."""
    if isinstance(row.get("responses"), dict):
        for question, given in row["responses"].items():
            for each in given if isinstance(given, list) else ():
                if isinstance(each, dict) and each.get("status") in (None, "submitted"):
                    yield _Answer(question, each.get("value"), _text(each.get("user_id")))
        return
    for column in row:
        if column.endswith(_RESPONSES) and isinstance(row[column], list):
            users, statuses = (_list(row.get(f"{column}.{part}")) for part in ("users", "status"))
            for place, value in enumerate(row[column]):
                if statuses[place : place + 1] in ([], [None], ["submitted"]):
                    user = users[place] if place < len(users) else None
                    yield _Answer(column.removesuffix(_RESPONSES), value, _text(user))


def _conversation(row: dict[str, Any]) -> tuple[list[Message], dict[str, Message]]:
    """Returns the prompt of a record, and its replies by the names of their fields."""
    fields = row["fields"] if isinstance(row.get("fields"), dict) else _flat_fields(row)
    prompt = next((name for name in _PROMPTS if fields.get(name)), None)
    if prompt is None:
        raise MalformedRow(f"none of its fields is named {', '.join(_PROMPTS)}")
    value = fields[prompt]
    if isinstance(value, str):
        messages = [{"role": "user", "content": writable(value, prompt)}]
    else:
        messages = read_messages(value, prompt)
    named = {name: value for name, value in fields.items() if name != prompt and _REPLY.fullmatch(name)}
    replies = {name: _reply(value, name) for name, value in named.items() if value}
    if not replies and messages[-1]["role"] == "assistant":
        replies = {prompt: messages.pop()}
    if not messages or messages[-1]["role"] not in ("user", "tool"):
        raise MalformedRow(f"{prompt} must end with what a reply answers")
    return messages, replies


def _flat_fields(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if isinstance(value, str | list) and "." not in name}


def _reply(value: Any, name: str) -> Message:
    if isinstance(value, str):
        return assistant(writable(value, name))
    messages = read_messages(value, name)
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise MalformedRow(f"{name} must be one message of the assistant")
    return messages[0]


def _rated(question: str, replies: dict[str, Message]) -> Message:
    """Returns the reply that a question is about: the only one, or the one that it names."""
    about = [reply for name, reply in replies.items() if name in question] or list(replies.values())
    if len(about) != 1:
        raise MalformedRow(f"which reply {question} is about is not clear, of {', '.join(replies) or 'none'}")
    return about[0]


def _is_comment(answer: _Answer) -> bool:
    return _is_text(answer.value) and _COMMENT.fullmatch(answer.question) is not None


def _is_correction(answer: _Answer) -> bool:
    """Returns whether an answer is a better reply."""
    return _is_text(answer.value) and _CORRECTION.fullmatch(answer.question) is not None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not says_plainly(value)


def _is_ranking(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, dict) and isinstance(each.get("rank"), int) for each in value
    )


def _model(row: dict[str, Any]) -> str | None:
    metadata = row.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else row
    return next((_text(metadata[name]) for name in _MODELS if isinstance(metadata.get(name), str)), None)


def _text(value: Any) -> str | None:
    return writable(value, "a field") if isinstance(value, str) and value.strip() else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
