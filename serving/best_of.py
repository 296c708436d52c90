"""Best of n: of several whole replies, the one that pleases a person most is sent (best-of-n sampling)."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from schemas.chat import ChatRequest
from serving.engine import Delta
from serving.tastes import Choice, Tastes


def may_be_chosen(request: ChatRequest, sampling: dict[str, Any]) -> bool:
    """Returns whether one of several replies may be sent: it is free text, and another sample would be as
    good an answer to the request."""
    sampled = sampling.get("temperature", 1.0) > 0 and request.seed is None
    return sampled and request.n == 1 and not request.engine_fields() and not request.media


@dataclass(frozen=True, slots=True)
class WholeReplies:
    """The deltas of several whole replies to one prompt, by reply."""

    prompt: list[int]
    deltas: list[list[Delta]]

    @classmethod
    async def read(cls, deltas: AsyncGenerator[Delta], count: int) -> "WholeReplies":
        """Reads `count` replies to their ends."""
        found: list[list[Delta]] = [[] for _ in range(count)]
        prompt: list[int] = []
        async with aclosing(deltas):
            async for delta in deltas:
                prompt = delta.prompt_token_ids or prompt
                found[delta.choice].append(delta)
        return cls(prompt, found)

    @property
    def token_ids(self) -> list[list[int]]:
        return [[token for delta in reply for token in delta.token_ids] for reply in self.deltas]

    @property
    def texts(self) -> list[str]:
        return ["".join(delta.text for delta in reply) for reply in self.deltas]

    def sent(self, choices: Sequence[int]) -> list[Delta]:
        """Returns the deltas of these replies, as if there were no others."""
        return [
            replace(delta, choice=place, prompt_token_ids=self.prompt)
            for place, choice in enumerate(choices)
            for delta in self.deltas[choice]
        ]


async def best_reply(
    tastes: Tastes, choice: Choice, deltas: AsyncGenerator[Delta], count: int
) -> list[Delta]:
    """Returns the deltas of the best of `count` replies, as those of a single one."""
    replies = await WholeReplies.read(deltas, count)
    return replies.sent([await tastes.best(choice, replies.prompt, replies.token_ids)])
