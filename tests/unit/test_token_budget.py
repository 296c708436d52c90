"""A token budget bounds what a batch costs with its padding, and decides nothing else."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from schemas.settings import RLSettings
from trainer.model.backbone import Backbone
from trainer.model.batch import padded_width
from trainer.model.memory import CPU_SHARE, MIN_TOKENS, STEPS, PassBytes, TokenBytes, token_budget
from trainer.model.token_budget import MAX_TOKENS, TokenBudget, split
from trainer.planning.fake_model import FakeBackbone

torch.set_num_threads(1)


def sizes(lengths: list[tuple[int, int]], tokens: int, rows: int, processes: int = 1) -> list[int]:
    return [part.stop - part.start for part in split(lengths, tokens, rows, processes)]


def test_without_a_limit_of_tokens_batches_have_the_most_rows() -> None:
    lengths = [(20, 10)] * 40
    assert sizes(lengths, 10**9, 16) == [16, 16, 8]
    assert sizes(lengths, 10**9, 16, processes=2) == [32, 8]
    assert sizes([], 10**9, 16) == []


def test_a_budget_of_a_larger_machine_keeps_within_a_smaller_one() -> None:
    larger = TokenBudget(training=8_192, sampling=16_384, row=4_096, kept=2_048)
    smaller = TokenBudget(training=4_096, sampling=32_768, row=2_048, kept=4_096)
    both = TokenBudget(training=4_096, sampling=16_384, row=2_048, kept=2_048)
    assert larger.within(smaller) == smaller.within(larger) == both
    assert TokenBudget().within(smaller) == smaller


@pytest.mark.parametrize("processes", [1, 3])
def test_no_share_of_a_batch_is_above_the_budget_and_none_is_smaller_than_it_must_be(processes: int) -> None:
    rng = random.Random(0)
    lengths = sorted((rng.randrange(1, 300), rng.randrange(1, 100)) for _ in range(200))
    parts = list(split(lengths, 2_000, 16, processes))
    assert [index for part in parts for index in range(part.start, part.stop)] == list(range(200))

    def fits(start: int, stop: int) -> bool:
        width = padded_width(max(p for p, _ in lengths[start:stop]), max(r for _, r in lengths[start:stop]))
        share = -(-(stop - start) // processes)
        return share <= 16 and share * width <= 2_000

    assert all(fits(part.start, part.stop) for part in parts)
    assert not any(fits(part.start, part.stop + 1) for part in parts[:-1])


def test_a_row_above_the_budget_is_a_batch_of_its_own() -> None:
    assert sizes([(5, 5), (5, 5), (100_000, 5), (5, 5)], 1_000, 16) == [2, 1, 1]


def test_the_longest_prompt_leaves_room_for_the_reply_and_a_setting_may_only_lower_it() -> None:
    budget = TokenBudget(training=4_096, sampling=8_192, row=2_048)
    assert budget.longest_prompt(48) == 2_000
    assert budget.longest_prompt(48, setting=500) == 500
    assert budget.longest_prompt(48, setting=9_000) == 2_000


def test_the_bytes_of_tokens_are_counted_alike_with_and_without_weights(tiny_base: Path) -> None:
    fake = FakeBackbone(tiny_base, RLSettings())
    with fake.mode:
        counted = TokenBytes.count(fake)
    assert counted == TokenBytes.count(Backbone(tiny_base, RLSettings()))
    assert counted.kept is not None
    assert counted.recomputed is not None
    assert counted.recomputed.pair < counted.kept.pair
    always, never = (
        TokenBytes.count(Backbone(tiny_base, RLSettings(gradient_checkpointing=each)))
        for each in (True, False)
    )
    assert (always.kept, always.recomputed) == (None, counted.recomputed)
    assert (never.kept, never.recomputed) == (counted.kept, None)
    config = fake.model.config
    cache = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    assert 2 * cache < counted.sampling < 20 * cache


def test_the_budget_follows_the_memory_in_steps(tiny_base: Path) -> None:
    backbone = Backbone(tiny_base, RLSettings())
    count = TokenBytes.count(backbone)
    none = token_budget(backbone, count, 0, copies=4)
    assert (none.training, none.sampling) == (MIN_TOKENS, MIN_TOKENS)
    some = token_budget(backbone, count, 2**29, copies=4)
    assert MIN_TOKENS < some.training < some.sampling
    following = STEPS[STEPS.index(some.training) + 1]
    assert count.kept is not None
    bytes_of = [count.training_batch(tokens, count.kept) for tokens in (some.training, following)]
    assert bytes_of[0] <= CPU_SHARE * 2**29 < bytes_of[1]
    assert token_budget(backbone, count, int(2**29 * 1.01), copies=4) == some
    assert some.row == backbone.context_length
    most = token_budget(backbone, count, 2**50, copies=4)
    assert (most.training, most.sampling) == (MAX_TOKENS, MAX_TOKENS)


def test_rows_whose_activations_do_not_fit_are_computed_again(tiny_base: Path) -> None:
    backbone = Backbone(tiny_base, RLSettings())
    backbone.context_length = 2**20
    kept, recomputed = PassBytes(token=1e6, pair=0.0), PassBytes(token=1e5, pair=0.0)
    count = TokenBytes(kept, recomputed, 512, sampling=1e4, fixed_training=0, fixed_sampling=0)
    some = int(3.01 * count.training_batch(2_048, kept))
    found = token_budget(backbone, count, some, copies=4)
    assert found.training == found.kept == 2_048 < found.row
    assert count.training_batch(found.row, recomputed) <= CPU_SHARE * some
    assert [backbone.checkpoints(tokens) for tokens in (2_048, 2_049)] == [False, False]  # no budget is set
    backbone.token_budget = found
    assert [backbone.checkpoints(tokens) for tokens in (2_048, 2_049)] == [False, True]
    little = int(2.9 * count.training_batch(MIN_TOKENS, kept))
    found = token_budget(backbone, count, little, copies=4)
    assert found.kept == 0
    assert MIN_TOKENS < found.training == found.row
    backbone.gradient_checkpointing = False
    assert not backbone.checkpoints(2**19)


def test_a_prompt_with_all_its_replies_fits_into_the_sampling_budget(tiny_base: Path) -> None:
    backbone = Backbone(tiny_base, RLSettings())
    backbone.context_length = 2**20
    count = replace(TokenBytes.count(backbone), sampling=100_000.0)
    found = token_budget(backbone, count, 2**31, copies=8)
    assert found.row == found.sampling // 8 < found.training
