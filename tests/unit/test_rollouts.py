"""Sampling: tokens and log-probabilities are the model's, whatever else shares the batch."""

from types import SimpleNamespace
from typing import cast

import pytest
import torch
from transformers import DynamicCache

from schemas.settings import RLSettings
from tests.service import write_base
from tests.training import hyperparameters
from trainer.model import rollouts
from trainer.model.backbone import Backbone
from trainer.model.decoding import SPARE_COLUMNS, kv_cache
from trainer.model.rollouts import SamplingSpec, sample
from trainer.model.token_budget import TokenBudget
from trainer.reward.features import (
    LENGTH_SOFTNESS,
    LENGTH_THRESHOLDS,
    MAX_STATE_BYTES,
    MAX_TOKENS,
    NO_TOKEN,
    answer_length,
    answer_mask,
    extract_features,
    first_tokens,
    select_layers,
)
from trainer.reward.scoring import micro_batches, score
from trainer.rl.schedule import kl_coef

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A tiny base with an adapter that changes it."""
    backbone = Backbone(write_base(tmp_path_factory.mktemp("rollouts") / "tiny"), RLSettings())
    generator = torch.Generator().manual_seed(0)
    for weight in backbone.trainable():
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    return backbone


def prompts(backbone: Backbone) -> list[list[int]]:
    texts = ["hello", "what is the capital of France?", "a", "tell me a story about a goose and a hat"]
    return [backbone.render([{"role": "user", "content": text}]) for text in texts]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_samplers_logprobs_equal_a_plain_forward_pass(backbone: Backbone) -> None:
    asked = prompts(backbone)
    with backbone.full_precision():
        found = sample(backbone, asked, SamplingSpec(3, 20), generator())
    for rollout in found:
        row = asked[rollout.prompt] + rollout.token_ids
        with torch.no_grad():
            logits = backbone.model(torch.tensor([row])).logits[0].float()
        start = len(asked[rollout.prompt])
        expected = logits[start - 1 : -1].log_softmax(1).gather(1, torch.tensor(row[start:])[:, None])
        assert torch.allclose(torch.tensor(rollout.logprobs), expected.squeeze(1), atol=1e-4)


def test_every_prompt_gets_its_replies_in_order_and_within_the_limit(backbone: Backbone) -> None:
    found = sample(backbone, prompts(backbone), SamplingSpec(3, 20), generator(), max_rows=6)
    assert [rollout.prompt for rollout in found] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    for rollout in found:
        assert 1 <= len(rollout.token_ids) == len(rollout.logprobs) <= 20
        assert rollout.ended == (rollout.token_ids[-1] in backbone.eos_ids)
        assert not set(rollout.token_ids[:-1]) & set(backbone.eos_ids)


def test_a_token_budget_changes_no_reply(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, spec = prompts(backbone), SamplingSpec(2, 20, greedy=True)
    whole = sample(backbone, asked, spec, generator())
    widths: list[int] = []
    prefill = rollouts._prefill
    monkeypatch.setattr(rollouts, "_prefill", lambda *of: (widths.append(len(of[1])), prefill(*of))[1])
    monkeypatch.setattr(backbone, "token_budget", TokenBudget(sampling=200))
    parts = sample(backbone, asked, spec, generator())
    assert len(widths) > 1
    assert [each.token_ids for each in parts] == [each.token_ids for each in whole]


def test_a_prefix_that_all_prompts_share_runs_once_and_changes_no_reply(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [[5, 6, 7, 8, 9, *prompt] for prompt in prompts(backbone)]
    with backbone.full_precision():
        whole = sample(backbone, asked, SamplingSpec(2, 20, greedy=True), generator())
    shapes: list[tuple[int, ...]] = []
    forward = backbone.next_logits_BV
    monkeypatch.setattr(
        backbone, "next_logits_BV", lambda *of: (shapes.append(tuple(of[0].shape)), forward(*of))[1]
    )
    with backbone.full_precision():
        shared = sample(backbone, asked, SamplingSpec(2, 20, greedy=True, shared_prefix=5), generator())
    assert shapes[:2] == [(1, 5), (4, max(map(len, asked)) - 5)]
    for one, other in zip(whole, shared, strict=True):
        assert one.token_ids == other.token_ids
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_long_prompts_share_no_batch_with_short_ones(backbone: Backbone) -> None:
    prompts, replies = [[5] * 20] * 6 + [[5] * 700] * 2, [[7] * (1 + row % 4) for row in range(8)]
    assert micro_batches(backbone, prompts, replies) == [[0, 4, 1, 5, 2, 3, 6, 7]]
    backbone.token_budget, before = TokenBudget(training=2_000), backbone.token_budget
    try:
        assert micro_batches(backbone, prompts, replies) == [[0, 4, 1, 5, 2, 3], [6, 7]]
    finally:
        backbone.token_budget = before


def test_the_seed_determines_the_samples(backbone: Backbone) -> None:
    asked, spec = prompts(backbone), SamplingSpec(2, 20)
    assert sample(backbone, asked, spec, generator(1)) == sample(backbone, asked, spec, generator(1))
    assert sample(backbone, asked, spec, generator(1)) != sample(backbone, asked, spec, generator(2))


def test_sampling_in_bfloat16_is_near_the_exact_policy(backbone: Backbone) -> None:
    asked = prompts(backbone)
    found = sample(backbone, asked, SamplingSpec(3, 12), generator())
    with torch.no_grad(), backbone.full_precision():
        rows, replies = [asked[rollout.prompt] for rollout in found], [each.token_ids for each in found]
        exact_BR = backbone.logprobs_BR(backbone.pad(rows, replies))
    errors = [
        abs(one - exact)
        for rollout, exact_R in zip(found, exact_BR.tolist(), strict=True)
        for one, exact in zip(rollout.logprobs, exact_R, strict=False)
    ]
    assert sum(errors) / len(errors) < 0.03


def test_the_reference_decodes_without_the_adapter(backbone: Backbone) -> None:
    asked, greedy = prompts(backbone), SamplingSpec(1, 12, greedy=True)
    with backbone.reference():
        base = sample(backbone, asked, greedy, generator())
    assert [each.token_ids for each in base] != [
        each.token_ids for each in sample(backbone, asked, greedy, generator())
    ]


def test_after_decoding_the_model_is_as_before(backbone: Backbone) -> None:
    attention = backbone.model.config._attn_implementation
    with backbone.decoding():
        assert backbone.model.config._attn_implementation != attention
    assert backbone.model.config._attn_implementation == attention
    assert not any("forward" in vars(module) for module in backbone.model.modules())


def test_a_kv_cache_keeps_its_columns_when_rows_are_repeated_and_leave(backbone: Backbone) -> None:
    cache, plain = kv_cache(backbone.model.config), DynamicCache(config=backbone.model.config)
    numbers = torch.Generator().manual_seed(0)
    for each in (cache, plain):
        numbers.manual_seed(0)
        for new, rows in ((5, 2), (1, 6), (SPARE_COLUMNS, 6), (1, 4), (2 * SPARE_COLUMNS, 4)):
            if each.layers and each.get_seq_length() and len(each.layers[0].keys) < rows:
                each.batch_repeat_interleave(3)
            elif each.layers and each.get_seq_length() and len(each.layers[0].keys) > rows:
                each.batch_select_indices(torch.tensor([0, 2, 3, 5]))
            keys, values = torch.randn(2, rows, 2, new, 4, generator=numbers)
            each.update(keys, values, 0)
    assert torch.equal(cache.layers[0].keys, plain.layers[0].keys)
    assert torch.equal(cache.layers[0].values, plain.layers[0].values)


def test_scores_do_not_depend_on_the_batch(backbone: Backbone) -> None:
    asked = prompts(backbone)
    found = sample(backbone, asked, SamplingSpec(12, 20), generator())
    rows = [asked[rollout.prompt] for rollout in found]
    replies = [rollout.token_ids for rollout in found]
    with backbone.full_precision():
        together = score(backbone, rows, replies)
        for index in (0, 17, 40):
            alone = score(backbone, [rows[index]], [replies[index]])
            assert together.base_logprobs[index] == pytest.approx(alone.base_logprobs[0], abs=1e-4)
            for name, group in alone.features.items():
                assert torch.allclose(group[0].float(), together.features[name][index].float(), atol=2e-2), (
                    name
                )


def test_features_are_the_mean_the_maximum_the_last_the_tokens_and_the_length(backbone: Backbone) -> None:
    batch = backbone.pad([[5, 6], [7]], [[9, 9, 11], [12]])
    hidden_BRD = torch.tensor([[[1.0, -4.0], [3.0, 0.0], [2.0, 1.0]], [[-5.0, 6.0], [9.0, 9.0], [9.0, 9.0]]])
    beyond = batch.reply_length - 3
    features = extract_features(batch, [torch.nn.functional.pad(hidden_BRD, (0, 0, 0, beyond), value=9.0)])
    assert features["mean"].tolist() == [[2.0, -1.0], [-5.0, 6.0]]
    assert features["peak"].tolist() == [[3.0, 1.0], [-5.0, 6.0]]
    assert features["last"].tolist() == [[2.0, 1.0], [-5.0, 6.0]]
    assert [row[row != NO_TOKEN].tolist() for row in features["tokens"]] == [[9, 9, 11], [12]]
    assert features["tokens"].shape == (2, MAX_TOKENS)
    beyond_four = [1 / (1 + (4 / length) ** (1 / LENGTH_SOFTNESS)) for length in (3, 1)]
    assert features["length"][:, 0].tolist() == pytest.approx(beyond_four, abs=1e-3)
    assert features["length"].shape == (2, len(LENGTH_THRESHOLDS))


def test_hidden_states_keep_their_width_in_features_of_bounded_size(backbone: Backbone) -> None:
    batch = backbone.pad([[5, 6]], [[9, 9, 11]])
    features = extract_features(batch, [torch.randn(1, batch.reply_length, 4_096) for _ in range(5)])
    assert features["mean"].shape == (1, 5 * 4_096)
    sizes = {name: group.element_size() * group.shape[1] for name, group in features.items()}
    assert sizes["mean"] + sizes["peak"] + sizes["last"] <= MAX_STATE_BYTES
    assert sizes["tokens"] == 4 * MAX_TOKENS

    def layers_of(width: int) -> list[int]:
        config = SimpleNamespace(num_hidden_layers=32, hidden_size=width)
        model = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: config))
        return select_layers(cast(Backbone, SimpleNamespace(model=model)))

    assert layers_of(4_096) == [0, 8, 16, 24, 32]
    assert layers_of(8_192) == [24, 32]
    assert layers_of(40_000) == [32]


def test_a_very_long_reply_keeps_the_ids_of_its_first_tokens() -> None:
    tokens_BR = torch.tensor([[30] * 10 + [20] * MAX_TOKENS, [20] * 5 + [30] * (MAX_TOKENS + 5)])
    mask_BR = torch.ones_like(tokens_BR)
    mask_BR[1, 9:] = 0
    found = first_tokens(tokens_BR, mask_BR).tolist()
    assert found == [
        [20] * (MAX_TOKENS - 10) + [30] * 10,
        [20] * 5 + [30] * 4 + [NO_TOKEN] * (MAX_TOKENS - 9),
    ]


def test_a_thought_before_the_answer_is_no_part_of_the_features(backbone: Backbone) -> None:
    opening, closing = 20, 21
    replies = [[opening, 5, 6, closing, 7, 8], [5, closing, 7, 8], [7, 8], [opening, 5, 8], [5, closing]]
    batch = backbone.pad([[5]] * 5, replies)
    assert [row.nonzero().squeeze(1).tolist() for row in answer_mask(batch, opening, closing)] == [
        [4, 5], [2, 3], [0, 1], [2], [1],
    ]  # fmt: skip
    assert [answer_length(reply, (opening, closing)) for reply in replies] == [2, 2, 2, 1, 1]
    states_BRD = batch.reply_tokens_BR.unsqueeze(2).float()
    features = extract_features(batch, [states_BRD], (opening, closing))
    assert features["mean"].squeeze(1).tolist() == [7.5, 7.5, 7.5, 8.0, closing]
    assert [row[row != NO_TOKEN].tolist() for row in features["tokens"][:3]] == [[7, 8]] * 3
    assert torch.equal(features["length"][0], features["length"][2])
    assert backbone.think_ids is None


def test_the_kl_coefficient_grows_as_the_budget_is_used_up() -> None:
    rl = hyperparameters(kl_coef=0.2, kl_per_reply=0.1)
    assert kl_coef(0.0, rl) == pytest.approx(0.2)
    assert kl_coef(0.5, rl) == pytest.approx(0.2 / 0.75)
    assert kl_coef(5.0, rl) == pytest.approx(0.8)


def test_a_low_temperature_with_a_small_nucleus_is_greedy(backbone: Backbone) -> None:
    asked = prompts(backbone)
    greedy = sample(backbone, asked, SamplingSpec(1, 8, greedy=True), generator())
    cold = sample(backbone, asked, SamplingSpec(1, 8, 0.01, 0.1), generator())
    assert [each.token_ids for each in cold] == [each.token_ids for each in greedy]


@pytest.mark.parametrize("shared", [0, 4])
@pytest.mark.parametrize("greedy", [True, False])
def test_replies_are_sampled_with_the_penalties_and_cuts_of_serving(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, greedy: bool, shared: int
) -> None:
    """Against a plain forward pass: greedy tokens are the likeliest after penalties, sampled ones among the
    three likeliest then, and all have the log-probability from before. Padding counts for no token."""
    asked = [[5, 6, 7, 8, *prompt] for prompt in prompts(backbone)]
    spec = SamplingSpec(
        2, 20, 0.8, top_k=3, repetition_penalty=1.4, presence_penalty=0.3, frequency_penalty=0.2,
        greedy=greedy, shared_prefix=shared,
    )  # fmt: skip
    with backbone.full_precision():
        plain = sample(backbone, asked, SamplingSpec(2, 20, 0.8, greedy=True), generator())
        monkeypatch.setattr(backbone, "pad_id", plain[0].token_ids[0])
        found = sample(backbone, asked, spec, generator())
    for rollout in found:
        row = torch.tensor(asked[rollout.prompt] + rollout.token_ids)
        start = len(asked[rollout.prompt])
        with torch.no_grad():
            logits_RV = backbone.model(row[None]).logits[0, start - 1 : -1].float()
        expected_R = (logits_RV / 0.8).log_softmax(1).gather(1, row[start:, None]).squeeze(1)
        assert torch.allclose(torch.tensor(rollout.logprobs), expected_R, atol=1e-4)
        for place, token in enumerate(rollout.token_ids):
            scores_V, reply = logits_RV[place].clone(), row[start : start + place]
            seen = row[: start + place].unique()
            scores_V[seen] = torch.where(scores_V[seen] > 0, scores_V[seen] / 1.4, scores_V[seen] * 1.4)
            for before, count in zip(*reply.unique(return_counts=True), strict=True):
                scores_V[before] -= 0.3 + 0.2 * count
            least = scores_V.topk(1 if greedy else 3).values[-1]
            assert scores_V[token] >= least - 1e-4
    if greedy:
        assert [each.token_ids for each in found] != [each.token_ids for each in plain]
