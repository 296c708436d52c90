"""Voters chat with a project's policies and vote by a hidden taste; what they send lands in its database."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from schemas.feedback import Ranking, Thumb, Vote
from schemas.turns import Reply, Turn, new_id
from serving.router import Assignment
from tests.bench.served_replies import ServedAt
from tests.bench.tastes import Taste
from trainer.model.backbone import Backbone
from trainer.model.rollouts import Rollout

PEOPLE = 20
NOISE = 0.1
"""Share of verdicts that are turned round."""

PAIR_SHARE = 0.3
"""Share of votes that compare two replies; the others are thumbs."""


@dataclass(frozen=True, slots=True)
class Visit:
    """A turn with the vote on it."""

    turn: Turn
    vote: Vote


class Voters:
    """All voters of one run. They send `prompts` again and again, in an order of their own."""

    def __init__(
        self, backbone: Backbone, served_at: ServedAt, prompts: Sequence[str], taste: Taste, seed: int
    ) -> None:
        self.votes = 0
        self._backbone = backbone
        self._served_at = served_at
        self._prompts = list(prompts)
        self._taste = taste
        self._rng = random.Random(f"voters {seed}")
        self._generator = torch.Generator().manual_seed(seed)
        self._queue: list[str] = []

    def visit(
        self, count: int, assign: Callable[[str], Assignment], load: Callable[[str], None]
    ) -> list[Visit]:
        """Returns `count` visits. `assign` tells which policy answers a person, and `load` puts a policy's
        adapter into the backbone."""
        turns = [new_id() for _ in range(count)]
        people = {turn: f"u_{self._rng.randrange(PEOPLE)}" for turn in turns}
        assigned = {turn: assign(people[turn]) for turn in turns}
        prompts = {turn: self._next_prompt() for turn in turns}
        found: list[Visit] = []
        for policy in sorted({each.policy for each in assigned.values()}):
            rows = [
                turn
                for turn in turns
                if assigned[turn].policy == policy
                for _ in range(2 if self._rng.random() < PAIR_SHARE else 1)
            ]
            ids = [self._backbone.render([_message(prompts[turn])]) for turn in rows]
            load(policy)
            rollouts = self._served_at.sample(self._backbone, ids, 1, self._generator)
            for turn in dict.fromkeys(rows):
                shown = [rollout for row, rollout in zip(rows, rollouts, strict=True) if row == turn]
                prompt = (prompts[turn], ids[rows.index(turn)])
                found.append(self._vote(turn, people[turn], assigned[turn], prompt, shown))
        self.votes += count
        return found

    def _vote(
        self, turn: str, person: str, by: Assignment, prompt: tuple[str, list[int]], shown: list[Rollout]
    ) -> Visit:
        """Returns the visit with a thumb on the reply, or with a ranking of two. `prompt` is its text and
        token ids."""
        rng = self._rng
        texts = [self._backbone.decode(rollout.token_ids).replace("\0", "�") for rollout in shown]
        liked = [self._taste.likes(text) != (rng.random() < NOISE) for text in texts]
        vote: Vote
        if len(shown) > 1:
            groups = [[at for at, up in enumerate(liked) if up is side] for side in (True, False)]
            ranking = [group for group in groups if group]
            vote = Ranking(type="ranking", completion_id=turn, ranking=ranking, acceptable=any(liked))
        else:
            vote = Thumb(type="thumb", completion_id=turn, value="up" if liked[0] else "down")
        replies = [
            Reply(
                at,
                by.policy,
                by.propensity,
                text,
                each.token_ids,
                each.logprobs,
                _finish_reason(each),
                seconds=1.0,
            )
            for at, (each, text) in enumerate(zip(shown, texts, strict=True))
        ]
        sampling = {
            "temperature": self._served_at.temperature,
            "top_p": self._served_at.top_p,
            "max_tokens": self._served_at.max_tokens,
        }
        text, ids = prompt
        whole = Turn(turn, "default", turn, person, "default-admin", [_message(text)], ids, sampling, replies)
        return Visit(whole, vote)

    def _next_prompt(self) -> str:
        if not self._queue:
            self._queue = self._rng.sample(self._prompts, len(self._prompts))
        return self._queue.pop()


def _message(prompt: str) -> dict[str, str]:
    return {"role": "user", "content": prompt}


def _finish_reason(rollout: Rollout) -> str:
    return "stop" if rollout.ended else "length"
