"""Which prompts a round practises on: what people sent last, and some of what they sent before."""

from collections import Counter
from collections.abc import Iterable

import pytest
import torch

from schemas.database import Pool
from schemas.turns import IMPORTED
from tests.training import add_key
from trainer.data.prompts import FEWEST, NEWEST, OLDER, to_practise
from trainer.rl.optimize import _draw

RARE = 7
"""How prompts of a rare skill begin; the others begin with 1."""


@pytest.fixture
def sent(pool: Pool) -> Pool:
    """8,000 turns with a prompt each. One in a hundred asks for a rare skill, but none of the last 2,000."""
    add_key(pool)
    kinds = [RARE if number % 100 == 50 and number < 6_000 else 1 for number in range(8_000)]
    send(pool, "chatcmpl-", ([kind, number] for number, kind in enumerate(kinds)))
    return pool


def send(pool: Pool, prefix: str, prompts: Iterable[list[int]], begin: int = 0) -> None:
    """One a second."""
    with pool.connection() as connection, connection.cursor() as cursor:
        cursor.executemany(
            "insert into turns (id, project, conversation_id, rater, key_id, messages, prompt_token_ids,"
            " sampling, created_at) values (%s, 'default', 'c', 'u', 'default-admin', '[]', %s, '{}',"
            " timestamptz '2026-05-01' + %s * interval '1 second')",
            [[f"{prefix}{second}", prompt, second] for second, prompt in enumerate(prompts, begin)],
        )


def numbers(turns: list[str]) -> list[int]:
    return [int(turn.rsplit("-", 1)[1]) for turn in turns]


def test_what_was_asked_seldom_and_long_ago_is_still_practised(sent: Pool) -> None:
    found = numbers(to_practise(sent, "default", draw=1))
    newest, older = found[:NEWEST], found[NEWEST:]
    assert newest == list(range(7_999, 7_999 - NEWEST, -1))
    assert older == sorted(older, reverse=True)
    assert len(older) == int(OLDER * NEWEST)
    quarters = Counter(number // 1_744 for number in older)
    assert min(quarters[each] for each in range(4)) > 0.8 * len(older) / 4, "evenly over all that came before"

    rare, drawn, steps = 0, 0, 100
    for round in range(10):
        turns = numbers(to_practise(sent, "default", draw=round))
        prompts = [[RARE if number % 100 == 50 else 1, number] for number in turns]
        for step in range(steps):
            for kind, number in _draw(prompts, 16, torch.Generator().manual_seed(1_000 * round + step)):
                drawn += number < 8_000 - NEWEST
                rare += kind == RARE and number < 6_000
    total = 16 * steps * 10
    assert drawn / total == pytest.approx(0.25, abs=0.02)
    assert rare / total == pytest.approx(0.25 * 60 / (8_000 - NEWEST), rel=0.4)


def test_chance_is_the_draws(sent: Pool) -> None:
    first = to_practise(sent, "default", draw=1)
    assert to_practise(sent, "default", draw=1) == first
    other = to_practise(sent, "default", draw=2)
    assert other[:NEWEST] == first[:NEWEST]
    assert len(set(other[NEWEST:]) & set(first[NEWEST:])) < 0.2 * len(other[NEWEST:])


def test_who_asks_the_same_again_does_not_fill_the_round(sent: Pool) -> None:
    send(sent, "chatcmpl-", ([2, number % 100] for number in range(2_000)), begin=8_000)
    found = numbers(to_practise(sent, "default", draw=1))
    assert sorted(found[:100]) == list(range(9_900, 10_000))
    assert len(found) == 100 + int(OLDER * 100)
    assert max(found[100:]) < 8_000


def test_while_they_are_few_all_are_practised_on(pool: Pool) -> None:
    add_key(pool)
    send(pool, "chatcmpl-", [[1, 1], [1, 2], [1, 1], [1, 3]])
    assert numbers(to_practise(pool, "default", draw=1)) == [3, 1, 2]


def test_what_nobody_sent_is_practised_on_where_people_sent_few(sent: Pool) -> None:
    before = to_practise(sent, "default", draw=1)
    send(sent, f"{IMPORTED}-", ([3, number] for number in range(2_000)), begin=9_000)
    assert to_practise(sent, "default", draw=1) == before

    with sent.connection() as connection:
        connection.execute("delete from turns where not starts_with(id, %s)", [IMPORTED])
    send(sent, "chatcmpl-", [[1, 1], [3, 1_999], [1, 2]])
    few = to_practise(sent, "default", draw=1)
    assert few[:3] == ["chatcmpl-2", "chatcmpl-1", "chatcmpl-0"]
    assert numbers(few[3:]) == list(range(10_998, 10_998 - FEWEST + 3, -1)), "the newest, none of them twice"
    assert len(few) == FEWEST
