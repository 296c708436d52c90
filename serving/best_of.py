"""Best of n: of several whole replies, the one that pleases a person most is sent (best-of-n sampling)."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from schemas.chat import ChatRequest
from serving.engine import Delta
from serving.tastes import Choice, Tastes


def may_be_chosen(request: ChatRequest, sampling: dict[str, Any]) -> bool:
    """Returns whether one of several replies may be sent: it is free text, and another sample would be as
    good an answer to the request."""
    sampled = sampling.get("temperature", 1.0) > 0 and request.seed is None
    return sampled and request.n == 1 and not request.engine_fields() and not request.media


async def best_reply(
    tastes: Tastes, choice: Choice, deltas: AsyncGenerator[Delta], count: int
) -> list[Delta]:
    """Returns the deltas of the best of `count` replies, as those of a single one."""
    found: list[list[Delta]] = [[] for _ in range(count)]
    prompt: list[int] = []
    async with aclosing(deltas):
        async for delta in deltas:
            prompt = delta.prompt_token_ids or prompt
            found[delta.choice].append(delta)
    replies = [[token for delta in reply for token in delta.token_ids] for reply in found]
    best = await tastes.best(choice, prompt, replies)
    return [replace(delta, choice=0, prompt_token_ids=prompt) for delta in found[best]]
