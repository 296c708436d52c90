"""The evaluation measures a policy's true approval and knowledge with fresh samples.

Replies to held-out prompts are scored by the simulated preference itself, replies to factual questions by the
facts. Policies are pinned by id and nothing is stored, so the evaluation leaves no training data. Every
policy gets the same prompts, so that the choice of prompts cancels out of comparisons.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from deploy.simulation.api_client import ApiClient, RequestFailed
from deploy.simulation.attackers import Attack
from deploy.simulation.people import Preference
from deploy.simulation.prompt_text import normalised
from schemas.policies import BASE
from schemas.settings import TrainerSettings
from trainer.evaluation.questions import own_questions
from trainer.starter import MODEL_DIR
from trainer.starter.world import Prompt, correct, factual_prompts, prompts

_PROMPTS = (8, 40)  # bounds of the number of prompts
_VOTES_PER_PROMPT = 15  # the number of prompts is proportional to the votes, within the bounds
_BASE_SAMPLES = 64  # replies of the base to each prompt; `attainable` is the best of them
_BATCH = 8  # replies in one request
_QUESTIONS_PER_PROMPT = 5
_SAMPLES_PER_QUESTION = 4
_CONCURRENCY = 4  # requests in flight


@cache
def trainer_questions() -> frozenset[str]:
    """Returns the normalised prompts of the trainer's own knowledge questions about the starter."""
    settings = TrainerSettings()
    found = own_questions(MODEL_DIR, settings.gate, settings.seed)
    return frozenset(normalised(question.prompt) for question in found)


def judged_prompts(seed: int, votes: int) -> list[Prompt]:
    """Returns the prompts on which approval is measured, none of which the trainer asks."""
    return _unasked(prompts, _count(votes), seed + 1_000_003)


def judged_questions(seed: int, votes: int) -> list[Prompt]:
    """Returns the factual prompts on which knowledge is measured, none of which the trainer asks."""
    return _unasked(factual_prompts, _QUESTIONS_PER_PROMPT * _count(votes), seed + 2_000_003)


def _count(votes: int) -> int:
    return min(max(votes // _VOTES_PER_PROMPT, _PROMPTS[0]), _PROMPTS[1])


def _unasked(draw: Callable[[int, int], list[Prompt]], count: int, seed: int) -> list[Prompt]:
    asked = trainer_questions()
    return [each for each in draw(2 * count, seed) if normalised(each.prompt) not in asked][:count]


@dataclass(frozen=True, slots=True)
class BaseEvaluation:
    """The figures of the base before the first vote: shares between 0 and 1."""

    approval: float
    attainable: float
    knowledge: float


class PolicyEvaluator:
    """Evaluates policies on one fixed set of prompts and factual questions. `held_out` has their normalised
    texts, and those of the trainer's questions: no simulated user may send one of them."""

    def __init__(self, api: ApiClient, preference: Preference, *, seed: int, votes: int) -> None:
        self._api = api
        self._preference = preference
        self._prompts = judged_prompts(seed, votes)
        self._questions = judged_questions(seed, votes)
        judged = {normalised(each.prompt) for each in (*self._prompts, *self._questions)}
        self.held_out = judged | trainer_questions()
        self._slots = asyncio.Semaphore(_CONCURRENCY)

    async def base(self) -> BaseEvaluation:
        """Returns the base's approval, its best-of-64 approval averaged over prompts, and its knowledge."""
        per_prompt = _BASE_SAMPLES // _BATCH
        asked = [prompt for prompt in self._prompts for _ in range(per_prompt)]
        replies = await self._sample(BASE, asked, _BATCH)
        liked = [[self._preference.likes(reply) for reply in batch] for batch in replies]
        best = [
            any(any(batch) for batch in liked[start : start + per_prompt])
            for start in range(0, len(liked), per_prompt)
        ]
        return BaseEvaluation(_share(liked), sum(best) / len(best), await self.knowledge(BASE))

    async def approval(self, policy: str) -> float:
        """Returns the share of the policy's replies that the preference likes."""
        replies = await self._sample(policy, self._prompts, _BATCH)
        return _share([[self._preference.likes(reply) for reply in batch] for batch in replies])

    async def share(self, policy: str, attack: Attack) -> float:
        """Returns the share of the policy's replies to what attackers send that are as they want them."""
        asked = [prompt._replace(prompt=attack.message(prompt.prompt)) for prompt in self._prompts]
        replies = await self._sample(policy, asked, _BATCH)
        return _share([[attack.wants(reply) for reply in batch] for batch in replies])

    async def knowledge(self, policy: str) -> float:
        """Returns the share of the policy's replies to factual questions that are right."""
        replies = await self._sample(policy, self._questions, _SAMPLES_PER_QUESTION)
        return _share(
            [
                [correct(question, reply) for reply in batch]
                for question, batch in zip(self._questions, replies, strict=True)
            ]
        )

    async def live(self) -> str:
        """Returns the policy that answers most of a few requests: a small share always goes to the base.
        Raises RequestFailed if none is answered."""
        answers = await self._complete("default", self._prompts[:9], 1)
        named = Counter(str(answer["system_fingerprint"]) for answer in answers if answer)
        if not named:
            raise RequestFailed("No request was answered at the end of the simulation.")
        return named.most_common(1)[0][0]

    async def _sample(self, policy: str, asked: Sequence[Prompt], n: int) -> list[list[str]]:
        """Returns `n` replies to each prompt, or none where the request failed."""
        return [
            [choice["message"]["content"] for choice in completion["choices"]] if completion else []
            for completion in await self._complete(policy, asked, n)
        ]

    async def _complete(self, model: str, asked: Sequence[Prompt], n: int) -> list[dict[str, Any] | None]:
        async def complete(prompt: Prompt) -> dict[str, Any] | None:
            messages = [{"role": "user", "content": prompt.prompt}]
            async with self._slots:
                try:
                    return await self._api.chat(messages, model=model, n=n, store=False)
                except RequestFailed:
                    return None

        return await asyncio.gather(*map(complete, asked))


def _share(verdicts: Sequence[Sequence[bool]]) -> float:
    judged = [verdict for batch in verdicts for verdict in batch]
    return sum(judged) / max(1, len(judged))
