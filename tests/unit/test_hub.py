"""News of what was learned goes to those whom it concerns, once, and other work goes on meanwhile."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any, cast

import psycopg
import pytest

from feedback.records import Learned
from feedback.store import Store
from serving import hub, live
from serving.hub import Hub
from serving.keys import Caller

NOW = datetime(2026, 11, 29, tzinfo=UTC)


class Socket:
    """A websocket of someone; `heard` are the votes that it was told of."""

    busy = False

    def __init__(self, votes: set[str] | None = None, raters: set[str] | None = None) -> None:
        self.caller = Caller("key", "default", "publishable")
        self.votes, self.raters = votes or set(), raters or set()
        self.heard: list[str] = []

    def notify(self, frame: dict[str, Any]) -> None:
        self.heard.append(frame["feedback_id"])


class Votes:
    """The votes that a policy learned from, by a rater each; `breaks_at` is where the database fails once."""

    def __init__(self, raters: list[str], breaks_at: int | None = None) -> None:
        self._raters = raters
        self._breaks_at = breaks_at

    async def learned_by(self, project: str, policy: str) -> AsyncGenerator[Learned]:
        for number, rater in enumerate(self._raters):
            if number == self._breaks_at:
                self._breaks_at = None
                raise psycopg.OperationalError("the connection is lost")
            yield Learned(f"fb_{number}", f"chatcmpl-{number}", rater)


async def announce(votes: Votes, *sockets: Socket) -> Hub:
    found = Hub(cast(Any, None), cast(Store, votes))
    for socket in sockets:
        found._subscribers.add(socket)
    try:
        await found._announce_policy("default", "p1", NOW)
    except psycopg.OperationalError:
        await found._announce_policy("default", "p1", NOW)
    return found


@pytest.mark.parametrize("breaks_at", [None, 0, 1, 2, 3])
async def test_each_hears_of_their_votes_once(breaks_at: int | None) -> None:
    ada, bob, both, nobody = Socket({"fb_0"}), Socket(set(), {"u_bob"}), Socket({"fb_1"}, {"u_bob"}), Socket()
    await announce(Votes(["u_ada", "u_bob", "u_bob", "u_eve"], breaks_at), ada, bob, both, nobody)
    assert ada.heard == ["fb_0"]
    assert bob.heard == both.heard == ["fb_1", "fb_2"]
    assert nobody.heard == []


async def test_one_person_with_many_sockets_does_not_hold_up_the_others() -> None:
    """All sockets of a page may chat for one person; each hears of so many votes at most."""
    sockets = [Socket(set(), {"u_all"}) for _ in range(40)]
    longest, told = 0, 0

    async def other_work() -> None:
        nonlocal longest, told
        while True:
            now = sum(len(socket.heard) for socket in sockets)
            longest, told = max(longest, now - told), now
            await asyncio.sleep(0)

    working = asyncio.create_task(other_work())
    await announce(Votes(["u_all"] * 1_000), *sockets)
    working.cancel()
    assert {len(socket.heard) for socket in sockets} == {hub.MAX_NEWS}
    assert 0 < longest <= 32


def test_a_websocket_that_stays_open_knows_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MOST_KNOWN", 2)
    names: OrderedDict[str, None] = OrderedDict()
    for name in ("ada", "bob", "ada", "cyd"):
        live.keep_newest(names, name)
    assert list(names) == ["ada", "cyd"]
