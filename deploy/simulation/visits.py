"""Simulated people coming by: each visit is a message, the replies to it, and one vote.

Visits begin at a steady rate, each by somebody who is not in the middle of another; a person at times goes
on with their last conversation. A visit whose requests fail leaves no vote and is made up for later. What is
shown of it all is the table of policies that people met, judged by the taste itself.
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

from deploy.simulation.api_client import Api, RequestFailed
from deploy.simulation.people import Person
from trainer.starter.world import Prompt, prompts

_COMPARISONS = 0.15  # share of votes that rank two replies
_EDITS = 0.1  # share of votes that rewrite a reply, where it is not liked
_FOLLOW_UPS = 0.25  # chance to go on with the last conversation


class PolicyRow(BaseModel):
    """A policy that people met, first at `first_seconds` and after `first_votes`; its replies in the course
    of chatting, and how many of them the taste likes."""

    policy: str
    first_seconds: float
    first_votes: int
    replies: int = 0
    liked: int = 0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def approval(self) -> float:
        """The true approval so far."""
        return self.liked / max(1, self.replies)


@dataclass(slots=True)
class Conversation:
    """What a person said and heard; `messages` is empty where it cannot go on."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    messages: list[dict[str, str]] = field(default_factory=list)


class Visits:
    """All visits of one simulation. `rate` is in visits a second, `seconds` the time to begin them in."""

    def __init__(
        self, api: Api, people: list[Person], *, seed: int, votes: int, seconds: float, rate: float
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
        self._conversations: dict[str, Conversation] = {}
        self._opened: float | None = None
        self._closed: float | None = None

    def clock(self) -> float:
        """Seconds since the first visit could begin, up to `close`."""
        return 0.0 if self._opened is None else (self._closed or time.monotonic()) - self._opened

    def close(self) -> None:
        """Stops the clock."""
        self._closed = time.monotonic()

    def over(self) -> bool:
        """Whether the time is."""
        return self.clock() >= self._seconds

    async def run(self, set_aside: Set[str]) -> None:
        """Until the votes are cast or the time is over; nobody sends a prompt that is set aside."""
        rng = random.Random(f"visits {self._seed}")
        asked = [prompt for prompt in prompts(4 * self._votes, self._seed) if prompt.prompt not in set_aside]
        idle: asyncio.Queue[Person] = asyncio.Queue()
        for person in rng.sample(self._people, len(self._people)):
            idle.put_nowait(person)
        under_way, begun = 0, 0

        async def visit(person: Person, prompt: Prompt, seed: int) -> None:
            nonlocal under_way
            try:
                await self._visit(person, prompt, random.Random(seed))
            except RequestFailed:
                self._conversations.pop(person.name, None)
            finally:
                under_way -= 1
                idle.put_nowait(person)

        self._opened = time.monotonic()
        async with asyncio.TaskGroup() as group:
            while len(self.vote_ids) < self._votes and not self.over():
                full = len(self.vote_ids) + under_way >= self._votes or idle.empty()
                if full or self.clock() < begun / self._rate:
                    await asyncio.sleep(0.02)
                    continue
                prompt = asked[begun % len(asked)]
                begun, under_way = begun + 1, under_way + 1
                group.create_task(visit(idle.get_nowait(), prompt, rng.getrandbits(64)))

    async def _visit(self, person: Person, prompt: Prompt, rng: random.Random) -> None:
        conversation = self._conversations.pop(person.name, Conversation())
        if rng.random() >= _FOLLOW_UPS:
            conversation = Conversation()
        messages = [*conversation.messages, {"role": "user", "content": prompt.prompt}]
        kind = rng.random()
        completion = await self._api.chat(
            messages,
            n=2 if kind < _COMPARISONS else 1,
            user=person.name,
            metadata={"conversation_id": conversation.id},
        )
        texts = [choice["message"]["content"] for choice in completion["choices"]]
        self._judge(completion["hearken"]["policies"], texts, person)
        vote = _vote(person, prompt, texts, kind, rng)
        self.vote_ids.append(await self._api.vote(completion, **vote))
        self.types[vote["type"]] += 1
        if not conversation.messages:
            best = vote["ranking"][0][0] if vote["type"] == "ranking" else 0
            heard = {"role": "assistant", "content": texts[best]}
            self._conversations[person.name] = Conversation(conversation.id, [*messages, heard])

    def _judge(self, policies: list[str], texts: list[str], person: Person) -> None:
        for policy, text in zip(policies, texts, strict=True):
            row = self.rows.setdefault(
                policy, PolicyRow(policy=policy, first_seconds=self.clock(), first_votes=len(self.vote_ids))
            )
            row.replies += 1
            row.liked += person.taste.likes(text)

    def table(self, news: str) -> Table:
        """The picture of the moment."""
        caption = f"{len(self.vote_ids)} of {self._votes} votes, {self.clock():.0f} s; {news}"
        table = Table(title=f"They like: {self._people[0].taste}", caption=caption, min_width=64)
        for name in ("policy", "after votes", "at second", "replies judged", "true approval"):
            table.add_column(name, justify="left" if name == "policy" else "right")
        for row in list(self.rows.values()):
            numbers = (row.first_votes, round(row.first_seconds), row.replies)
            table.add_row(row.policy, *map(str, numbers), f"{row.approval:.0%}")
        return table


def _vote(
    person: Person, prompt: Prompt, texts: list[str], kind: float, rng: random.Random
) -> dict[str, Any]:
    """The vote's own fields: a ranking of several replies, else mostly a thumb and at times an edit."""
    if len(texts) > 1:
        groups, acceptable = person.ranking(texts, rng)
        return {"type": "ranking", "ranking": groups, "acceptable": acceptable}
    up = person.thumb(texts[0], rng)
    if not up and kind < _COMPARISONS + _EDITS:
        better = person.edit(texts[0], prompt.accept or (), rng)
        if better != texts[0]:
            return {"type": "edit", "choice": 0, "text": better}
    return {"type": "thumb", "choice": 0, "value": "up" if up else "down"}
