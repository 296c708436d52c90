"""Replies of an engine, as its client gives them."""

from dataclasses import dataclass, field
from typing import Any

from serving.engine import EngineClient

CAT = [{"role": "user", "content": "Tell me about the cat."}]
TEA = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Tea? 🙂"}]
GREEDY = {"temperature": 0, "max_tokens": 24}


@dataclass
class Reply:
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None
    tool_calls: list[dict[str, Any]] = field(default_factory=list)


async def replies(
    engine: EngineClient, policy: str, sampling: dict[str, Any], messages: list[dict[str, Any]] = CAT
) -> tuple[list[int], list[Reply]]:
    """Returns the prompt's ids and every choice, collected from the stream."""
    found = [Reply() for _ in range(sampling.get("n", 1))]
    prompt: list[int] = []
    async for delta in engine.stream(policy, messages, sampling):
        reply = found[delta.choice]
        assert reply.finish_reason is None, "nothing comes after the end"
        assert len(delta.logprobs) == len(delta.token_ids)
        reply.text += delta.text
        reply.token_ids += delta.token_ids
        reply.logprobs += delta.logprobs
        reply.finish_reason = delta.finish_reason
        for part in delta.tool_calls:
            if part["index"] == len(reply.tool_calls):
                reply.tool_calls.append({"id": part["id"], "function": {"name": "", "arguments": ""}})
            for name, text in part["function"].items():
                reply.tool_calls[part["index"]]["function"][name] += text or ""
        prompt = prompt or delta.prompt_token_ids or []
    return prompt, found


async def reply(
    engine: EngineClient, policy: str, sampling: dict[str, Any], messages: list[dict[str, Any]] = CAT
) -> Reply:
    return (await replies(engine, policy, sampling, messages))[1][0]
