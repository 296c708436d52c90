"""Examples become votes of the likelihood, preference pairs and labelled replies."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from schemas.settings import RewardSettings
from trainer.data.examples import Corpus, Example, Key, Reply

NOW = datetime(2026, 5, 1, tzinfo=UTC)
A, B, C = ("t1", "0"), ("t1", "1"), ("t2", "0")
EDITED = ("t2", "f9")


def an_example(
    type: str, value: dict[str, Any], keys: tuple[Key, ...], days: float = 0, rater: str = "ann"
) -> Example:
    created = NOW - timedelta(days=days)
    return Example(f"e{days}{type}", keys[0][0], type, value, rater, keys, created, seen_in_training=False)


def corpus(*found: Example) -> Corpus:
    return Corpus(list(found), {key: Reply([1], [2]) for key in (A, B, C, EDITED)})


EVERY_KIND = corpus(
    an_example("thumb", {"value": "up"}, (A,)),
    an_example("thumb", {"value": "down"}, (B,)),
    an_example("ranking", {"ranking": [[1], [0]], "acceptable": True}, (A, B)),
    an_example("ranking", {"ranking": [[0, 1]], "acceptable": False}, (A, B)),
    an_example("edit", {}, (EDITED, C)),
    an_example("signal", {"signal": "copied"}, (A,)),
    an_example("signal", {"signal": "abandoned"}, (C,)),
)


def test_every_kind_of_vote_becomes_numbers() -> None:
    votes, keys = EVERY_KIND.votes(EVERY_KIND.examples, RewardSettings())
    assert keys == [A, B, EDITED, C]
    assert votes.count == 7
    assert votes.thumbs == [
        (0, 0, 0, True),
        (1, 0, 1, False),
        (3, 0, 0, False),
        (3, 0, 1, False),
        (4, 0, 2, True),
    ]
    assert votes.edits == [(4, 0, 2, 3)]
    assert votes.signals == [(5, 0, 0, True), (6, 0, 3, False)]
    assert [row[:3] for row in votes.stages[2]] == [(2, 0, [1, 0]), (3, 0, [0, 1])]


def test_the_reply_that_was_shown_first_is_known() -> None:
    value = {"ranking": [[0], [1]], "acceptable": True}
    as_chosen = an_example("ranking", value, (A, B))
    turned = an_example("ranking", {**value, "shown": [1, 0]}, (A, B), days=1)
    votes, _ = corpus(as_chosen, turned).votes([as_chosen, turned], RewardSettings())
    assert [row[3] for row in votes.stages[2]] == [[True, False], [False, True]]


def test_older_votes_weigh_less() -> None:
    found = [an_example("thumb", {"value": "up"}, (A,), days) for days in (0, 30, 60)]
    votes, _ = corpus(*found).votes(found, RewardSettings(half_life_days=30))
    assert votes.weights == pytest.approx([1, 0.5, 0.25])


def test_ages_count_from_the_newest_vote_of_the_corpus() -> None:
    found = [an_example("thumb", {"value": "up"}, (A,), days) for days in (0, 30, 60)]
    votes, _ = corpus(*found).votes(found[1:], RewardSettings(half_life_days=30))
    assert votes.weights == pytest.approx([0.5, 0.25])


def test_signals_give_neither_pairs_nor_labels() -> None:
    weighted = [(example, 1 - 0.1 * number) for number, example in enumerate(EVERY_KIND.examples)]
    assert EVERY_KIND.pairs(weighted) == [(B, A, 0.8), (EDITED, C, 0.6), (A, B, 0.9)]
    assert EVERY_KIND.labelled(weighted) == [
        (A, True, 1.0), (B, False, 0.9), (B, True, 0.8), (A, False, 0.8), (A, False, 0.7), (B, False, 0.7),
        (EDITED, True, 0.6), (C, False, 0.6),
    ]  # fmt: skip


def test_the_total_weight_of_judges_is_capped() -> None:
    up = {"value": "up"}
    people = [an_example("thumb", up, (A,), days) for days in (0, 30)]
    judges = [an_example("thumb", up, (key,), rater=f"judge:{key}") for key in (A, B, C)]
    reward = RewardSettings(half_life_days=30, judge_weight_cap=0.5)
    votes, _ = corpus(*people, *judges).votes([*people, *judges], reward)
    assert votes.weights == pytest.approx([1, 0.5, 0.25, 0.25, 0.25])
    votes, _ = corpus(*people, *judges).votes([*people, judges[0]], reward)
    assert votes.weights == pytest.approx([1, 0.5, 0.75])
    votes, _ = corpus(*judges).votes(judges, reward)
    assert votes.weights == [0, 0, 0]


def test_signals_do_not_raise_the_cap_of_judges() -> None:
    up = {"value": "up"}
    person, judge = an_example("thumb", up, (A,)), an_example("thumb", up, (B,), rater="judge:wise")
    signals = [an_example("signal", {"signal": "copied"}, (C,), rater=f"u{each}") for each in range(40)]
    reward = RewardSettings(judge_weight_cap=0.5)
    votes, _ = corpus(person, judge, *signals).votes([person, judge, *signals], reward)
    assert votes.weights == pytest.approx([1, 0.5] + [1] * 40)
