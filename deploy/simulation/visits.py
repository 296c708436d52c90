"""Simulated users visit the service: each visit is one message, its replies and one vote.

Visits begin at a constant rate, each by somebody who is idle; a person sometimes continues their last
conversation. A visit whose request fails leaves no vote, and another one is begun in its place. The progress
table shows each policy that users met, with its true approval.
"""

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import Set
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, computed_field
from rich.table import Table

from deploy.simulation.api_client import ApiClient, RequestFailed
from deploy.simulation.attack_visits import Attackers
from deploy.simulation.people import Person
from deploy.simulation.prompt_text import normalised
from trainer.starter.world import Prompt, prompts

_RANKING_SHARE = 0.15  # share of votes that rank two replies
_EDIT_SHARE = 0.1  # share of votes that rewrite a reply, where they dislike it
_FOLLOW_UP_SHARE = 0.25  # probability of continuing the last conversation
_POLL = 0.02  # seconds


class PolicyRow(BaseModel):
    """A policy that users met: when they first met it (seconds and votes), the number of its replies, and the
    number that the preference likes."""

    policy: str
    first_seconds: float
    first_votes: int
    replies: int = 0
    liked: int = 0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def approval(self) -> float:
        """Returns the true approval so far."""
        return self.liked / max(1, self.replies)


@dataclass(slots=True)
class Conversation:
    """A person's last conversation; `messages` is empty if it cannot be continued."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    messages: list[dict[str, str]] = field(default_factory=list)


class Visits:
    """All visits of one simulation. `rate` is in visits a second; no visit begins after `seconds`."""

    def __init__(
        self,
        api: ApiClient,
        people: list[Person],
        *,
        seed: int,
        votes: int,
        seconds: float,
        rate: float,
        attackers: Attackers | None = None,
    ) -> None:
        self.rows: dict[str, PolicyRow] = {}
        self.types: Counter[str] = Counter()
        self.vote_ids: list[str] = []
        self._api = api
        self._people = people
        self._seed = seed
        self._votes = votes
        self._seconds = seconds
        self._rate = rate
        self._attackers = attackers
        self._conversations: dict[str, Conversation] = {}
        self._opened: float | None = None
        self._closed: float | None = None

    def clock(self) -> float:
        """Returns the seconds from the start of `run` to now, or to `close`."""
        return 0.0 if self._opened is None else (self._closed or time.monotonic()) - self._opened

    def close(self) -> None:
        """Stops the clock."""
        self._closed = time.monotonic()

    def over(self) -> bool:
        """Returns whether the time is up."""
        return self.clock() >= self._seconds

    async def run(self, held_out: Set[str]) -> None:
        """Runs visits until all votes are cast or the time is up. No prompt whose normalised text is in
        `held_out` is sent."""
        rng = random.Random(f"visits {self._seed}")
        drawn = prompts(4 * self._votes + 100, self._seed)
        asked = [prompt for prompt in drawn if normalised(prompt.prompt) not in held_out]
        idle: asyncio.Queue[Person] = asyncio.Queue()
        for person in rng.sample(self._people, len(self._people)):
            idle.put_nowait(person)
        in_flight, begun = 0, 0

        async def visit(person: Person, prompt: Prompt, seed: int) -> None:
            nonlocal in_flight
            try:
                if self._attackers is not None and person.name in self._attackers.names:
                    await self._attackers.visit(person.name, prompt, random.Random(seed))
                else:
                    await self._visit(person, prompt, random.Random(seed))
            except RequestFailed:
                self._conversations.pop(person.name, None)
            finally:
                in_flight -= 1
                idle.put_nowait(person)

        self._opened = time.monotonic()
        async with asyncio.TaskGroup() as group:
            while len(self.vote_ids) < self._votes and not self.over():
                full = len(self.vote_ids) + in_flight >= self._votes or idle.empty()
                if full or self.clock() < begun / self._rate:
                    await asyncio.sleep(_POLL)
                    continue
                prompt = asked[begun % len(asked)]
                begun, in_flight = begun + 1, in_flight + 1
                group.create_task(visit(idle.get_nowait(), prompt, rng.getrandbits(64)))

    async def _visit(self, person: Person, prompt: Prompt, rng: random.Random) -> None:
        conversation = self._conversations.pop(person.name, Conversation())
        if rng.random() >= _FOLLOW_UP_SHARE:
            conversation = Conversation()
        messages = [*conversation.messages, {"role": "user", "content": prompt.prompt}]
        kind = rng.random()
        completion = await self._api.chat(
            messages,
            n=2 if kind < _RANKING_SHARE else 1,
            user=person.name,
            metadata={"conversation_id": conversation.id},
        )
        texts = [choice["message"]["content"] for choice in completion["choices"]]
        self._count(completion["hearken"]["policies"], texts, person)
        vote = _draw_vote(person, prompt, texts, kind, rng)
        self.vote_ids.append(await self._api.vote(completion, **vote))
        self.types[vote["type"]] += 1
        if not conversation.messages:
            best = vote["ranking"][0][0] if vote["type"] == "ranking" else 0
            answer = {"role": "assistant", "content": texts[best]}
            self._conversations[person.name] = Conversation(conversation.id, [*messages, answer])

    def _count(self, policies: list[str], texts: list[str], person: Person) -> None:
        """Adds the replies to the rows of their policies."""
        for policy, text in zip(policies, texts, strict=True):
            row = self.rows.setdefault(
                policy, PolicyRow(policy=policy, first_seconds=self.clock(), first_votes=len(self.vote_ids))
            )
            row.replies += 1
            row.liked += person.preference.likes(text)

    def table(self, status: str) -> Table:
        """Returns the progress table."""
        caption = f"{len(self.vote_ids)} of {self._votes} votes, {self.clock():.0f} s; {status}"
        table = Table(title=f"They like: {self._people[0].preference}", caption=caption, min_width=64)
        for name in ("policy", "after votes", "at second", "replies", "true approval"):
            table.add_column(name, justify="left" if name == "policy" else "right")
        for row in list(self.rows.values()):
            numbers = (row.first_votes, round(row.first_seconds), row.replies)
            table.add_row(row.policy, *map(str, numbers), f"{row.approval:.0%}")
        return table


def _draw_vote(
    person: Person, prompt: Prompt, texts: list[str], kind: float, rng: random.Random
) -> dict[str, Any]:
    """Draws the vote's own fields: a ranking of two replies; of one a thumb, or sometimes an edit."""
    if len(texts) > 1:
        groups, acceptable = person.ranking(texts, rng)
        return {"type": "ranking", "ranking": groups, "acceptable": acceptable}
    up = person.thumb(texts[0], rng)
    if not up and kind < _RANKING_SHARE + _EDIT_SHARE:
        better = person.edit(texts[0], prompt.accept or (), rng)
        if better != texts[0]:
            return {"type": "edit", "choice": 0, "text": better}
    return {"type": "thumb", "choice": 0, "value": "up" if up else "down"}
