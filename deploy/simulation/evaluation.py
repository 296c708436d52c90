"""How good a policy truly is: its replies to fresh prompts, judged by the taste itself or by the facts.

Policies are pinned by id, and nothing that is asked here is stored, so measuring teaches nothing. The same
prompts serve the base and what came of it, so that luck with prompts cancels out.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deploy.simulation.api_client import Api, RequestFailed
from deploy.simulation.people import Taste
from schemas.policies import BASE
from trainer.starter.world import Prompt, correct, probes, prompts

_PROMPTS = (8, 40)
_VOTES_PER_PROMPT = 15  # a short simulation is measured in proportion, between these bounds
_REPLIES = 64  # of the base to each prompt: attainable is the best of them
_BATCH = 8  # replies asked for at once
_PROBES_PER_PROMPT = 5
_PROBE_REPLIES = 4
_AT_ONCE = 4  # requests in flight


@dataclass(frozen=True, slots=True)
class Start:
    """What the base does, before anybody has voted: shares between 0 and 1."""

    approval: float
    attainable: float
    knowledge: float


class Measure:
    """One run's prompts and probes, the same for every policy. `fresh` are the prompts that approval is
    measured on: nobody should send them while people vote."""

    def __init__(self, api: Api, taste: Taste, *, seed: int, votes: int) -> None:
        count = min(max(votes // _VOTES_PER_PROMPT, _PROMPTS[0]), _PROMPTS[1])
        self._api = api
        self._taste = taste
        self._prompts = prompts(count, seed + 1_000_003)
        self.fresh = {prompt.prompt for prompt in self._prompts}
        self._probes = probes(_PROBES_PER_PROMPT * count, seed + 2_000_003)
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def start(self) -> Start:
        """The base's approval; the mean over prompts of the best of 64 of its replies; its knowledge."""
        asked = [prompt for prompt in self._prompts for _ in range(_REPLIES // _BATCH)]
        replies = await self._ask(BASE, asked, _BATCH)
        liked = [[self._taste.likes(reply) for reply in batch] for batch in replies]
        per_prompt = _REPLIES // _BATCH
        best = [
            any(any(batch) for batch in liked[start : start + per_prompt])
            for start in range(0, len(liked), per_prompt)
        ]
        return Start(_share(liked), sum(best) / len(best), await self.knowledge(BASE))

    async def approval(self, policy: str) -> float:
        """The share of the policy's replies that the taste likes."""
        replies = await self._ask(policy, self._prompts, _BATCH)
        return _share([[self._taste.likes(reply) for reply in batch] for batch in replies])

    async def knowledge(self, policy: str) -> float:
        """The share of the policy's replies to factual probes that are right."""
        replies = await self._ask(policy, self._probes, _PROBE_REPLIES)
        return _share(
            [
                [correct(probe, reply) for reply in batch]
                for probe, batch in zip(self._probes, replies, strict=True)
            ]
        )

    async def live(self) -> str:
        """The policy that answers people now, as its answers say; the base answers a few for good."""
        answers = await self._complete("default", self._prompts[:9], 1)
        named = Counter(str(answer["system_fingerprint"]) for answer in answers if answer)
        if not named:
            raise RequestFailed("Nobody answered at the end.")
        return named.most_common(1)[0][0]

    async def _ask(self, policy: str, asked: Sequence[Prompt], n: int) -> list[list[str]]:
        """`n` replies to each prompt; none where the request failed."""
        return [
            [choice["message"]["content"] for choice in completion["choices"]] if completion else []
            for completion in await self._complete(policy, asked, n)
        ]

    async def _complete(self, model: str, asked: Sequence[Prompt], n: int) -> list[dict[str, Any] | None]:
        async def complete(prompt: Prompt) -> dict[str, Any] | None:
            messages = [{"role": "user", "content": prompt.prompt}]
            async with self._room:
                try:
                    return await self._api.chat(messages, model=model, n=n, store=False)
                except RequestFailed:
                    return None

        return await asyncio.gather(*map(complete, asked))


def _share(verdicts: Sequence[Sequence[bool]]) -> float:
    judged = [verdict for batch in verdicts for verdict in batch]
    return sum(judged) / max(1, len(judged))
