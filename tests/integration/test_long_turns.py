"""No chat stops training: what is too long is left out of practice and counted, and its votes count."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from schemas.database import Pool
from schemas.settings import Settings
from tests.training import add_key, send, small_settings, some_turns, the_round, thumbs_by_parity
from trainer.model.backbone import Backbone
from trainer.model.batch import PaddedBatch
from trainer.model.speed import Speed
from trainer.model.token_budget import TokenBudget
from trainer.resident_base import ResidentBase

LONG = 100_000
"""Tokens of a long chat."""


@pytest.fixture
def settings(database_url: str, tmp_path: Path, tiny_base: Path, pool: Pool) -> Settings:
    add_key(pool)
    return small_settings(database_url, tmp_path, tiny_base)


def test_votes_on_a_chat_of_100_000_tokens_count_and_it_is_not_practised_on(
    settings: Settings, backbone: Backbone, database_url: str
) -> None:
    turns = some_turns(backbone, 20, seed=31)
    for number in range(2):
        turns[number] = replace(turns[number], prompt_token_ids=[5 + number] * LONG)
    send(database_url, turns, thumbs_by_parity(turns))
    record = the_round(settings)
    assert record["outcome"] in {"published", "rejected"}, record
    assert (record["prompts_too_long"], record["votes_truncated"], record["unreadable"]) == (2, 2, 0)
    assert record["examples"] + record["held_out"] == 20


def test_batches_keep_within_the_budget_whatever_was_voted_on(
    settings: Settings, backbone: Backbone, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = some_turns(backbone, 20, seed=32)
    turns[0] = replace(turns[0], prompt_token_ids=[5] * LONG)
    send(database_url, turns, thumbs_by_parity(turns))
    row = sorted(len(turn.prompt_token_ids) for turn in turns)[10] + settings.trainer.rl.max_tokens
    small = TokenBudget(training=3 * row, sampling=8 * row, row=row)
    monkeypatch.setattr(ResidentBase, "_token_budget", lambda self, settings: small)
    monkeypatch.setattr(Speed, "measure", classmethod(lambda cls, backbone: Speed(1e3, 1e3, 1e3)))
    shapes: list[tuple[int, int]] = []
    pad = Backbone.pad

    def watched(self: Backbone, *rows: Any) -> PaddedBatch:
        batch = pad(self, *rows)
        shapes.append((len(batch.tokens_BT), batch.tokens_BT.shape[1]))
        return batch

    monkeypatch.setattr(Backbone, "pad", watched)
    record = the_round(settings)
    assert record["outcome"] in {"published", "rejected"}, record
    assert record["prompts_too_long"] > 1
    assert record["votes_truncated"] > 1
    assert record["unreadable"] == 0
    assert max(rows for rows, _ in shapes) > 1
    assert all(rows * width <= small.training for rows, width in shapes if rows > 1)


def test_the_longest_prompt_is_a_setting(settings: Settings, backbone: Backbone, database_url: str) -> None:
    turns = some_turns(backbone, 20, seed=31)
    lengths = sorted(len(turn.prompt_token_ids) for turn in turns)
    send(database_url, turns, thumbs_by_parity(turns))
    settings.trainer = settings.trainer.model_copy(update={"max_prompt_tokens": lengths[15]})
    record = the_round(settings)
    assert record["prompts_too_long"] == sum(length > lengths[15] for length in lengths) > 0
    assert record["votes_truncated"] == 0
    assert record["outcome"] in {"published", "rejected"}
