"""Redaction replaces personal data in what is stored by its kind in brackets, as in `[email]`. What the model
is asked, and what it answers, is not changed.

A turn whose prompt or replies were changed is stored without token ids and log-probabilities, which would say
what was there. Its `request` has the mark REDACTED with the kinds and the numbers of tokens; the trainer
reads the redacted text instead (`trainer.data.untokenized_turns`). A conversation's id that holds personal
data is replaced by a pseudonym, so that its turns stay together.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson

from feedback.personal_data import PersonalDataFinder
from schemas.feedback import Edit, Signal, Vote
from schemas.projects import PersonalData
from schemas.turns import REDACTED, Reply, Turn

_STRUCTURE = frozenset({"role", "type", "id", "tool_call_id", "object", "detail", "format"})
"""Fields of messages whose values name no person."""

Pseudonym = Callable[[str, str], str]
"""Returns the pseudonym of a conversation's id in a project."""


class Redactor:
    """Redacts the given kinds of one project's turns and votes. Raises StartError as `PersonalDataFinder`."""

    def __init__(self, kinds: list[PersonalData], regions: list[str], pseudonym: Pseudonym) -> None:
        self._finder = PersonalDataFinder(kinds, regions)
        self._pseudonym = pseudonym

    def text(self, text: str, found: set[PersonalData] | None = None) -> str:
        """Returns a text with its personal data replaced, and adds to `found` what there was."""
        pieces, end = [], 0
        for each in self._finder.find(text):
            pieces += [text[end : each.start], f"[{each.kind}]"]
            end = each.end
            if found is not None:
                found.add(each.kind)
        return "".join([*pieces, text[end:]])

    def value(self, value: Any, found: set[PersonalData]) -> Any:
        """Does the same for each text in a JSON value, also in the arguments of tool calls, which are JSON in
        a text. Data URLs, which hold images and sounds, stay."""
        if isinstance(value, str):
            return value if value.startswith("data:") else self.text(value, found)
        if isinstance(value, list):
            return [self.value(each, found) for each in value]
        if isinstance(value, dict):
            return {
                name: each
                if name in _STRUCTURE and isinstance(each, str)
                else self._arguments(each, found)
                if name == "arguments" and isinstance(each, str)
                else self.value(each, found)
                for name, each in value.items()
            }
        return value

    def turn(self, turn: Turn) -> Turn:
        """Returns a turn as it may be stored."""
        aside: set[PersonalData] = set()
        metadata = {
            name: self.conversation(turn.project, each)
            if name == "conversation_id"
            else self.value(each, aside)
            for name, each in turn.metadata.items()
        }
        conversation = self.conversation(turn.project, turn.conversation_id)
        turn = replace(turn, conversation_id=conversation, metadata=metadata)
        found: set[PersonalData] = set()
        messages, request = self.value(turn.messages, found), self.value(turn.request, found)
        replies = [self._reply(reply, found) for reply in turn.replies]
        if not found:
            return turn
        mark: dict[str, Any] = {"kinds": sorted(found)}
        if turn.prompt_token_ids:
            mark["prompt_tokens"] = len(turn.prompt_token_ids)
            mark["tokens"] = [len(reply.token_ids) for reply in turn.replies]
        return replace(
            turn, messages=messages, request={**request, REDACTED: mark}, replies=replies, prompt_token_ids=[]
        )

    def vote(self, vote: Vote) -> Vote:
        """Returns a vote as it may be stored."""
        changed: dict[str, str] = {}
        if not isinstance(vote, Signal) and vote.comment is not None:
            changed["comment"] = self.text(vote.comment)
        if isinstance(vote, Edit):
            changed["text"] = self.text(vote.text)
        return vote.model_copy(update=changed)

    def conversation(self, project: str, id: str) -> str:
        """Returns a conversation's id, or its pseudonym where it holds personal data."""
        found: set[PersonalData] = set()
        self.text(id, found)
        return self._pseudonym(project, id) if found else id

    def _reply(self, reply: Reply, found: set[PersonalData]) -> Reply:
        return replace(
            reply,
            text=self.text(reply.text, found),
            message=self.value(reply.message, found),
            token_ids=[],
            logprobs=[],
        )

    def _arguments(self, arguments: str, found: set[PersonalData]) -> str:
        """Returns a tool call's arguments, still JSON where they were."""
        inside: set[PersonalData] = set()
        try:
            redacted = orjson.dumps(self._argument(orjson.loads(arguments), inside)).decode()
        except (orjson.JSONDecodeError, orjson.JSONEncodeError, RecursionError):  # no JSON, or too deep
            return self.text(arguments, found)
        found |= inside
        return redacted if inside else arguments

    def _argument(self, value: Any, found: set[PersonalData]) -> Any:
        """Redacts a JSON value, also numbers, which may be a phone's or a card's, and the names in objects,
        which may be people's addresses."""
        if isinstance(value, int) and not isinstance(value, bool):
            redacted = self.text(str(value), found)
            return value if redacted == str(value) else redacted
        if isinstance(value, list):
            return [self._argument(each, found) for each in value]
        if isinstance(value, dict):
            return {self.text(name, found): self._argument(each, found) for name, each in value.items()}
        return self.value(value, found)
