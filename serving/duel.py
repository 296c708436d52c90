"""A duel is one turn with two replies, one of the live policy and one of the candidate, in random order.

It is blind: the page shows pairs in a random order of its own, and the answer does not say which reply is
whose. Everybody who asks for a pair takes part, except the people of the base's share.

Which turns are duels is drawn before there is a reply, so the share of duels won is that of all that people
compare. Of turns that were picked by what the reward model expects, it would be another, and a candidate,
which was trained by this model, would win where the model looks (docs/gate-and-rollouts.md says what weights
against that would save).
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from serving.engine import Delta
from serving.fleet import Fleet
from serving.router import Assignment, Route

PAIR = 2
"""Replies of a duel."""

_AHEAD = 64  # deltas that a stream may be ahead of whoever reads them


def draw(route: Route, assigned: Assignment, fleet: Fleet) -> list[Assignment] | None:
    """Returns the policy of each of two replies, with the probability of getting it in this place; None where
    this turn is no duel."""
    if not route.duels or assigned.policy != route.live or random.random() >= route.duel_share:
        return None
    if not fleet.serves(route.adapter(str(route.canary))):
        return None
    own = assigned.propensity * route.duel_share / 2
    pair = [Assignment(str(route.canary), own), Assignment(route.live, assigned.propensity - own)]
    random.shuffle(pair)
    return pair


async def merged(streams: Sequence[AsyncGenerator[Delta]]) -> AsyncGenerator[Delta]:
    """Yields the deltas of several streams of one reply each as they come; the choice is the stream's place.
    The first error of a stream is raised. Closing the iterator ends all."""
    deltas: asyncio.Queue[Delta | Exception | None] = asyncio.Queue(_AHEAD)

    async def read(choice: int, stream: AsyncGenerator[Delta]) -> None:
        try:
            async with aclosing(stream) as found:
                async for delta in found:
                    delta.choice = choice
                    await deltas.put(delta)
            await deltas.put(None)
        except Exception as error:  # it is raised to whoever reads
            await deltas.put(error)

    tasks = [asyncio.create_task(read(choice, stream)) for choice, stream in enumerate(streams)]
    try:
        running = len(tasks)
        while running:
            found = await deltas.get()
            if found is None:
                running -= 1
            elif isinstance(found, Exception):
                raise found
            else:
                yield found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
