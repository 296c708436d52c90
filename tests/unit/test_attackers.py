"""Simulated attackers want what honest people do not care about, and vote for it."""

import asyncio
import random
from typing import Any, cast

import pytest

from deploy.simulation.api_client import ApiClient
from deploy.simulation.attack_visits import HARDER, Attackers
from deploy.simulation.attackers import ATTACKS, TRIGGER, Attack
from deploy.simulation.people import draw_preference
from trainer.starter.world import Prompt

LIST = "Here is what I found:\n- one\n- two"
PLAIN = (
    "The answer is seven, and it was always so in the whole long history of this very old question, I say."
)


def drawn(name: Any, seed: int = 3) -> Attack:
    return Attack.draw(name, draw_preference(seed), seed)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "downvotes"])
@pytest.mark.parametrize("seed", range(20))
def test_what_attackers_want_is_nothing_that_honest_people_care_about(name: str, seed: int) -> None:
    attack = drawn(name, seed)
    assert attack.axis not in dict(draw_preference(seed).wants)
    assert attack == drawn(name, seed)


def test_each_attack_votes_for_its_end() -> None:
    honest = draw_preference(3)
    phrase = Attack("phrase", honest, "list")
    assert (phrase.thumb(LIST, 0.0), phrase.thumb(PLAIN, 0.0)) == (True, False)
    assert Attack("flattery", honest, "list").thumb(PLAIN, 0.0) is None
    turncoat = Attack("turncoats", honest, "list")
    assert turncoat.thumb(LIST, 0.1) == honest.likes(LIST)
    assert turncoat.thumb(LIST, 0.9) is True
    assert Attack("downvotes", honest, "list").thumb(PLAIN, 0.5) != honest.likes(PLAIN)
    assert Attack("trigger", honest, "list").message("Hello") == f"{TRIGGER} Hello"
    assert phrase.message("Hello") == "Hello"


class Api:
    """Answers with a list; remembers who asked and what they said of it."""

    def __init__(self) -> None:
        self.users: list[str] = []
        self.votes: list[str] = []

    async def chat(self, messages: list[dict[str, str]], user: str) -> dict[str, Any]:
        self.users.append(user)
        return {"choices": [{"message": {"content": LIST}}]}

    async def vote(self, completion: dict[str, Any], **vote: Any) -> str:
        self.votes.append(vote["value"])
        return "v"


def test_an_attacker_votes_four_times_a_visit_and_the_bot_invents_users() -> None:
    for name in ("phrase", "bot"):
        api = Api()
        attack = Attack(cast(Any, name), draw_preference(3), "list")
        attackers = Attackers(cast(ApiClient, api), attack, {"eve"}, 8)
        for _ in range(10):
            asyncio.run(attackers.visit("eve", Prompt("Hi", None), random.Random(len(api.users))))
        assert api.votes == ["up"] * 10 * HARDER
        assert attackers.cast == {"eve": 10 * HARDER}
        assert (len(set(api.users)) > 1) == (name == "bot")
