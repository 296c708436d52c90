"""Simulated attackers visit the service: each visit is several messages, and a vote on each reply."""

import random
from collections import Counter
from collections.abc import Set

from deploy.simulation.api_client import ApiClient
from deploy.simulation.attackers import Attack
from trainer.starter.world import Prompt

HARDER = 4
"""Votes of an attacker's visit, where other people's have one."""

INVENTED = 30
"""Users that the vote bot invents."""


class Attackers:
    """The attackers among simulated people, by name. `votes` is what each is expected to cast; `cast` counts
    those that they cast."""

    def __init__(self, api: ApiClient, attack: Attack, names: Set[str], votes: int) -> None:
        self.names = names
        self.cast: Counter[str] = Counter()
        self._api = api
        self._attack = attack
        self._votes = max(1, votes)

    async def visit(self, name: str, prompt: Prompt, rng: random.Random) -> None:
        """Casts HARDER votes. Raises RequestFailed."""
        for _ in range(HARDER):
            bot = self._attack.name == "bot"
            user = f"invented-{rng.randrange(INVENTED)}" if bot else name
            messages = [{"role": "user", "content": self._attack.message(prompt.prompt)}]
            completion = await self._api.chat(messages, user=user)
            up = self._attack.thumb(
                completion["choices"][0]["message"]["content"], self.cast[name] / self._votes
            )
            if up is not None:
                await self._api.vote(completion, type="thumb", choice=0, value="up" if up else "down")
                self.cast[name] += 1
