"""The prompts of a round are the newest and a uniform sample of older ones."""

from collections import Counter
from collections.abc import Iterable, Sequence

import pytest
import torch

from schemas.database import Pool
from schemas.turns import IMPORTED
from tests.training import add_key
from trainer.data import prompts
from trainer.data.prompts import MAX_TURNS, MIN_PROMPTS, OLDER_PER_NEWEST
from trainer.model.rollouts import Rollout
from trainer.rl.sampling import step_sampler

RARE = 7
"""First token of prompts of a rare skill; the others begin with 1."""


@pytest.fixture
def sent(pool: Pool) -> Pool:
    """8,000 turns. One prompt in a hundred is of a rare skill, but none of the last 2,000."""
    add_key(pool)
    kinds = [RARE if number % 100 == 50 and number < 6_000 else 1 for number in range(8_000)]
    send(pool, "chatcmpl-", ([kind, number] for number, kind in enumerate(kinds)))
    return pool


def send(pool: Pool, prefix: str, sent: Iterable[list[int]], begin: int = 0) -> None:
    """Inserts turns with these prompts, one a second."""
    with pool.connection() as connection, connection.cursor() as cursor:
        cursor.executemany(
            "insert into turns (id, project, conversation_id, rater, key_id, messages, prompt_token_ids,"
            " sampling, created_at) values (%s, 'default', 'c', 'u', 'default-admin', '[]', %s, '{}',"
            " timestamptz '2026-05-01' + %s * interval '1 second')",
            [[f"{prefix}{second}", prompt, second] for second, prompt in enumerate(sent, begin)],
        )


def select_turns(pool: Pool, project: str, draw: int) -> list[str]:
    return prompts.select_turns(pool, project, draw, longest=1_000).turns


def one_each(asked: Sequence[list[int]]) -> list[Rollout]:
    """A sampler that gives one empty reply to each prompt."""
    return [Rollout(number, [], [], ended=True) for number in range(len(asked))]


def numbers(turns: list[str]) -> list[int]:
    return [int(turn.rsplit("-", 1)[1]) for turn in turns]


def test_a_flood_of_chats_does_not_replace_what_others_ask(sent: Pool) -> None:
    with sent.connection() as connection:  # 8,000 turns by 40 people, then a flood by one network
        connection.execute("update turns set rater = 'u' || (split_part(id, '-', 2)::integer % 40)")
    for part in range(2):
        flood = ([1, 100_000 + number] for number in range(part, 4_096, 2))
        send(sent, f"chatcmpl-flood{part}-", flood, begin=10_000)
    with sent.connection() as connection:
        connection.execute(
            "update turns set origin = 'one', rater = id where starts_with(id, 'chatcmpl-flood')"
        )
    found = select_turns(sent, "default", draw=1)
    flooded = sum("flood" in turn for turn in found)
    assert 0 < flooded <= 0.1 * len(found)
    assert len(found) - flooded > MAX_TURNS / 2


def test_one_person_alone_has_all_prompts(sent: Pool) -> None:
    assert len(select_turns(sent, "default", draw=1)) == int((1 + OLDER_PER_NEWEST) * MAX_TURNS)


def test_rare_and_old_prompts_stay_in_training(sent: Pool) -> None:
    found = numbers(select_turns(sent, "default", draw=1))
    newest, older = found[:MAX_TURNS], found[MAX_TURNS:]
    assert newest == list(range(7_999, 7_999 - MAX_TURNS, -1))
    assert older == sorted(older, reverse=True)
    assert len(older) == int(OLDER_PER_NEWEST * MAX_TURNS)
    quarters = Counter(number // 1_744 for number in older)
    assert min(quarters[each] for each in range(4)) > 0.8 * len(older) / 4, "uniform over all older turns"

    rare, drawn, steps = 0, 0, 100
    for round in range(10):
        turns = numbers(select_turns(sent, "default", draw=round))
        of_turns = [[RARE if number % 100 == 50 else 1, number] for number in turns]
        for step in range(steps):
            generator = torch.Generator().manual_seed(1_000 * round + step)
            for kind, number in step_sampler(of_turns, 16, one_each, generator)()[0]:
                drawn += number < 8_000 - MAX_TURNS
                rare += kind == RARE and number < 6_000
    total = 16 * steps * 10
    assert drawn / total == pytest.approx(0.25, abs=0.02)
    assert rare / total == pytest.approx(0.25 * 60 / (8_000 - MAX_TURNS), rel=0.4)


def test_the_sample_is_determined_by_the_draw(sent: Pool) -> None:
    first = select_turns(sent, "default", draw=1)
    assert select_turns(sent, "default", draw=1) == first
    other = select_turns(sent, "default", draw=2)
    assert other[:MAX_TURNS] == first[:MAX_TURNS]
    assert len(set(other[MAX_TURNS:]) & set(first[MAX_TURNS:])) < 0.2 * len(other[MAX_TURNS:])


def test_the_samples_of_a_few_rounds_leave_out_hardly_any_turn(sent: Pool) -> None:
    sampled = set[str]()
    for draw in range(10):
        sampled.update(select_turns(sent, "default", draw)[MAX_TURNS:])
    assert len(sampled) > 0.9 * (8_000 - MAX_TURNS)


def test_repeated_prompts_count_once(sent: Pool) -> None:
    send(sent, "chatcmpl-", ([2, number % 100] for number in range(2_000)), begin=8_000)
    found = numbers(select_turns(sent, "default", draw=1))
    assert sorted(found[:100]) == list(range(9_900, 10_000))
    assert len(found) == 100 + int(OLDER_PER_NEWEST * 100)
    assert max(found[100:]) < 8_000


def test_few_prompts_are_all_used(pool: Pool) -> None:
    add_key(pool)
    send(pool, "chatcmpl-", [[1, 1], [1, 2], [1, 1], [1, 3]])
    assert numbers(select_turns(pool, "default", draw=1)) == [3, 1, 2]


def test_imported_prompts_fill_up_to_the_minimum(sent: Pool) -> None:
    before = select_turns(sent, "default", draw=1)
    send(sent, f"{IMPORTED}-", ([3, number] for number in range(2_000)), begin=9_000)
    assert select_turns(sent, "default", draw=1) == before

    with sent.connection() as connection:
        connection.execute("delete from turns where not starts_with(id, %s)", [IMPORTED])
    send(sent, "chatcmpl-", [[1, 1], [3, 1_999], [1, 2]])
    few = select_turns(sent, "default", draw=1)
    assert few[:3] == ["chatcmpl-2", "chatcmpl-1", "chatcmpl-0"]
    assert numbers(few[3:]) == list(range(10_998, 10_998 - MIN_PROMPTS + 3, -1)), (
        "the newest, none of them twice"
    )
    assert len(few) == MIN_PROMPTS


def test_prompts_that_are_too_long_are_left_out_and_counted(pool: Pool) -> None:
    add_key(pool)
    send(pool, "chatcmpl-", [[1] * 8, [1] * 9, [2] * 9, [3] * 9, [2] * 8])
    found = prompts.select_turns(pool, "default", draw=1, longest=8)
    assert (numbers(found.turns), found.too_long) == ([4, 0], 3)


def test_a_flood_of_long_prompts_leaves_the_others(sent: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "READ_TURNS", 1_500)
    send(sent, "chatcmpl-", ([5] * 1_001 for _ in range(1_000)), begin=8_000)
    found = prompts.select_turns(sent, "default", draw=1, longest=1_000)
    assert found.too_long == 1_000
    assert numbers(found.turns)[:500] == list(range(7_999, 7_499, -1))
    assert len(found.turns) == 500 + int(OLDER_PER_NEWEST * 500)
    send(sent, "chatcmpl-", ([5] * 1_001 for _ in range(500)), begin=9_000)
    assert len(prompts.select_turns(sent, "default", draw=1, longest=1_000).turns) == MIN_PROMPTS


def test_the_prompts_of_a_round_are_bounded_together(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    add_key(pool)
    send(pool, "chatcmpl-", [[number] * 10 for number in range(20)])
    monkeypatch.setattr(prompts, "MAX_PROMPT_TOKENS", 75)
    found = prompts.select_turns(pool, "default", draw=1, longest=1_000)
    assert (numbers(found.turns), found.too_long) == (list(range(19, 12, -1)), 0)
