"""Each objective moves a tiny model in the right direction, independently of how samples are batched."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.service import write_base
from tests.training import hyperparameters
from trainer.model.backbone import Backbone
from trainer.model.rollouts import SamplingSpec, adapter_sampler
from trainer.model.token_budget import TokenBudget
from trainer.reward.features import FeatureGroups
from trainer.reward.scoring import PREFIX_STRIDE, score
from trainer.rl.advantages import group_mean, leave_one_out
from trainer.rl.batch import Batch
from trainer.rl.objectives import (
    CONFIDENT_KL_SCALE,
    DPO,
    KTO,
    Objective,
    OnlineDPO,
    PolicyGradient,
    ScoredReply,
)
from trainer.rl.replay import ReplayBuffer, WithReplay
from trainer.rl.reward_shaping import ShapedReward
from trainer.rl.sft import Demonstration, SFTLoss, WithSFT

torch.set_num_threads(1)

RL = hyperparameters(prompts_per_step=3, samples_per_prompt=4, max_tokens=8)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("objectives") / "tiny")


@pytest.fixture
def backbone(base: Path) -> Backbone:
    return Backbone(base, RL)


def samples(backbone: Backbone, seed: int = 0, kl_coef: float = 0.0) -> Batch:
    """Replies to three prompts; of each four, those with more low tokens are better."""
    prompts = [backbone.render([{"role": "user", "content": text}]) for text in ("hello", "a b c", "tell")]
    generator = torch.Generator().manual_seed(seed)
    rollouts = adapter_sampler(backbone, SamplingSpec(RL.samples_per_prompt, RL.max_tokens), generator)(
        prompts
    )
    rows = [prompts[rollout.prompt] for rollout in rollouts]
    low = [sum(token < 160 for token in rollout.token_ids) / len(rollout.token_ids) for rollout in rollouts]
    scored = score(backbone, rows, [rollout.token_ids for rollout in rollouts])
    rewards_PK = torch.tensor(low).view(3, RL.samples_per_prompt)
    return Batch(rows, rollouts, scored, rewards_PK, kl_coef, CONFIDENT_KL_SCALE * kl_coef)


def scored_reply(of: Batch, index: int) -> ScoredReply:
    return ScoredReply(list(of.prompts[index]), of.rollouts[index].token_ids, sum(of.base_logprobs[index]))


def demonstration(of: Batch, index: int, weight: float) -> Demonstration:
    return Demonstration(list(of.prompts[index]), of.rollouts[index].token_ids, weight)


def log_ratios(backbone: Backbone, of: Batch) -> torch.Tensor:
    """(P, K) of each sample as the adapter is now."""
    with torch.no_grad(), backbone.full_precision():
        batch = backbone.pad(of.prompts, of.replies)
        ratios_B = backbone.logprobs_BR(batch).sum(1) - torch.tensor([sum(row) for row in of.base_logprobs])
    return ratios_B.view(of.rewards_PK.shape)


def train(backbone: Backbone, objective: Objective, of: Batch, steps: int = 12) -> None:
    optimizer = torch.optim.AdamW(backbone.trainable(), lr=5e-3, weight_decay=0.0)
    for _ in range(steps):
        objective.backward(backbone, of)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def gradient(backbone: Backbone, objective: Objective, of: Batch) -> list[torch.Tensor]:
    """At the zero adapter, where only B has one."""
    objective.backward(backbone, of)
    found = [weight.grad.clone() for weight in backbone.trainable() if weight.grad is not None]
    for weight in backbone.trainable():
        weight.grad = None
    return found


ON_SAMPLES: list[Callable[[], Objective]] = [
    lambda: PolicyGradient(leave_one_out, 2.0),
    lambda: PolicyGradient(group_mean, 2.0),
    OnlineDPO,
]


@pytest.mark.parametrize("make", ON_SAMPLES, ids=["rloo", "grpo", "online_dpo"])
def test_what_was_better_becomes_likelier_than_what_was_worse(
    backbone: Backbone, make: Callable[[], Objective]
) -> None:
    of = samples(backbone, kl_coef=0.1)
    train(backbone, make(), of)
    ratios_PK = log_ratios(backbone, of)
    best = ratios_PK.gather(1, of.rewards_PK.argmax(1, keepdim=True))
    worst = ratios_PK.gather(1, of.rewards_PK.argmin(1, keepdim=True))
    assert bool((best > worst + 0.3).all()), (best, worst)


def test_replay_adds_the_gradient_on_the_kept_samples(backbone: Backbone) -> None:
    fresh, kept = samples(backbone, kl_coef=0.1), samples(backbone, seed=1, kl_coef=0.1)
    prompts = kept.prompts[:: RL.samples_per_prompt]
    rewards_N = kept.rewards_PK.flatten()
    reward = ShapedReward(lambda features: features["length"].float().sum(1), RL)
    residuals_NK = reward.residuals(kept.scored.features, rewards_N)
    buffer = ReplayBuffer(prompts, kept.rollouts, kept.scored, rewards_N, residuals_NK, reward)
    objective = PolicyGradient(leave_one_out, 2.0)
    with backbone.full_precision():
        apart = [gradient(backbone, objective, batch) for batch in (fresh, kept)]
        replay = WithReplay(objective, buffer, 8, torch.Generator().manual_seed(0))
        together = gradient(backbone, replay, fresh)
    for one, other, both in zip(*apart, together, strict=True):
        torch.testing.assert_close(one + other, both, rtol=1e-4, atol=1e-5)


def test_replayed_replies_of_the_base_pay_no_kl_penalty(backbone: Backbone) -> None:
    """Their sampler is the base, wherever the policy is."""
    of_base = samples(backbone)
    with torch.no_grad():
        for number, weight in enumerate(backbone.trainable()):
            noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
            weight.add_(0.1 * noise.to(weight))
    own, objective = samples(backbone, seed=1), PolicyGradient(leave_one_out, 2.0)

    def of_penalty(of: Batch) -> float:
        """The norm of what a penalty adds to the gradient."""
        free, paid = (gradient(backbone, objective, replace(of, kl_coef=beta)) for beta in (0.0, 1.0))
        return math.sqrt(sum(float((two - one).square().sum()) for one, two in zip(free, paid, strict=True)))

    assert own.kl > 0.1
    with backbone.full_precision():
        assert of_penalty(of_base) < 0.01 * of_penalty(own)


def test_the_value_before_a_token_is_the_reward_of_what_was_written(backbone: Backbone) -> None:
    def reward(features: FeatureGroups) -> torch.Tensor:
        return features["last"].float().sum(1) + features["length"].float().sum(1)

    prompts = [backbone.render([{"role": "user", "content": text}]) for text in ("hello", "a b c")]
    replies = [list(range(20, 20 + 2 * PREFIX_STRIDE + 3)), list(range(60, 60 + PREFIX_STRIDE + 1))]
    with backbone.full_precision():
        scored = score(backbone, prompts, replies, reward=reward)
        begun = score(backbone, prompts, [reply[:PREFIX_STRIDE] for reply in replies]).features
    for values, wanted in zip(scored.values, reward(begun).tolist(), strict=True):
        assert values[:PREFIX_STRIDE] == [0.0] * PREFIX_STRIDE
        assert values[PREFIX_STRIDE] == pytest.approx(wanted, rel=1e-2)


@pytest.mark.parametrize("make", ON_SAMPLES, ids=["rloo", "grpo", "online_dpo"])
def test_the_order_of_prompts_changes_nothing(backbone: Backbone, make: Callable[[], Objective]) -> None:
    of = samples(backbone, kl_coef=0.1)
    order = [index for prompt in (2, 0, 1) for index in range(4 * prompt, 4 * prompt + 4)]
    turned = replace(
        of,
        prompts=[of.prompts[index] for index in order],
        rollouts=[of.rollouts[index] for index in order],
        rewards_PK=of.rewards_PK[[2, 0, 1]],
        scored=of.scored.of(order),
    )
    with backbone.full_precision():
        found = gradient(backbone, make(), of), gradient(backbone, make(), turned)
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", ON_SAMPLES, ids=["rloo", "grpo", "online_dpo"])
def test_the_gradient_is_the_same_within_any_token_budget(
    backbone: Backbone, make: Callable[[], Objective]
) -> None:
    of = samples(backbone, kl_coef=0.1)
    whole: list[tuple[list[torch.Tensor], int]] = []
    shapes: list[int] = []
    padded = backbone.pad
    with backbone.full_precision(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "pad", lambda *rows: (shapes.append(len(rows[0])), padded(*rows))[1])
        for budget in (TokenBudget(), TokenBudget(training=40)):
            backbone.token_budget = budget
            whole.append((gradient(backbone, make(), of), len(shapes)))
    (one, batches), (other, all_batches) = whole
    assert all_batches - batches > 2 * batches, "batches are smaller"
    for ours, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("given", "pulled_back"), [(0.95, True), (0.85, False)])
def test_what_the_base_was_sure_of_is_pulled_back_though_another_token_was_sampled(
    backbone: Backbone, given: float, pulled_back: bool
) -> None:
    """With equal rewards and no KL, only the loss on confident tokens moves the policy."""
    of = samples(backbone, kl_coef=0.1)
    rollouts = [
        replace(rollout, logprobs=base) for rollout, base in zip(of.rollouts, of.base_logprobs, strict=True)
    ]
    flipped = [[(token + 1) % 200 for token in rollout.token_ids] for rollout in rollouts]
    top_logprobs = [[math.log(given)] * len(row) for row in flipped]
    scored = replace(of.scored, top_ids=flipped, top_logprobs=top_logprobs)
    same = replace(of, rollouts=rollouts, rewards_PK=torch.zeros(3, RL.samples_per_prompt), scored=scored)

    def of_flipped() -> torch.Tensor:
        batch = backbone.pad(same.prompts, same.replies)
        tokens_BR = torch.zeros_like(batch.reply_tokens_BR)
        for row, tokens in enumerate(flipped):
            tokens_BR[row, : len(tokens)] = torch.tensor(tokens)
        with torch.no_grad():
            return backbone.logprobs_with(batch, tokens_BR, 1.0)[1].sum(1)

    before_B = of_flipped()
    train(backbone, PolicyGradient(leave_one_out, 2.0), same)
    assert bool((of_flipped() > before_B + 0.3).all()) == pulled_back


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_log_probabilities_are_at_the_temperature_of_the_samples(
    backbone: Backbone, temperature: float
) -> None:
    prompt = backbone.render([{"role": "user", "content": "hello"}])
    spec = SamplingSpec(4, 8, temperature)
    with backbone.full_precision():
        rollouts = adapter_sampler(backbone, spec, torch.Generator().manual_seed(1))([prompt])
        replies = [rollout.token_ids for rollout in rollouts]
        scored = score(backbone, [prompt] * 4, replies, temperature=temperature)
        for rollout, base in zip(rollouts, scored.base_logprobs, strict=True):
            assert rollout.logprobs == pytest.approx(base, abs=1e-4)
        tokens = torch.tensor([prompt + replies[0]])
        logits = backbone.model(tokens).logits[0, len(prompt) - 1 : -1] / temperature
        expected = logits.log_softmax(1).gather(1, torch.tensor(replies[0])[:, None]).squeeze(1)
    torch.testing.assert_close(torch.tensor(scored.base_logprobs[0]), expected.detach(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("factor", "weight"), [(1.0, 1.0), (1.5, 1.5), (5.0, 2.0)])
def test_tokens_weigh_as_much_as_the_sampler_gave_them_too_little(
    backbone: Backbone, factor: float, weight: float
) -> None:
    with backbone.full_precision():
        of = samples(backbone)
    rollouts = [
        replace(rollout, logprobs=[each - math.log(factor) for each in rollout.logprobs])
        for rollout in of.rollouts
    ]
    objective = PolicyGradient(leave_one_out, 2.0)
    with backbone.full_precision():
        own = gradient(backbone, objective, of)
        others = gradient(backbone, objective, replace(of, rollouts=rollouts))
    for one, other in zip(own, others, strict=True):
        torch.testing.assert_close(other, weight * one, rtol=1e-3, atol=1e-6)


def test_pairs_of_votes_are_learned(backbone: Backbone) -> None:
    of = samples(backbone, kl_coef=0.1)
    chosen = [(0, 1), (5, 4), (9, 10)]
    pairs = [(scored_reply(of, better), scored_reply(of, worse), 1.0) for better, worse in chosen]
    train(backbone, DPO(pairs, 2, torch.Generator().manual_seed(0)), of, steps=20)
    ratios_B = log_ratios(backbone, of).view(-1)
    assert ratios_B[0] > ratios_B[1] + 0.3
    assert ratios_B[5] > ratios_B[4] + 0.3
    assert ratios_B[9] > ratios_B[10] + 0.3


def test_single_votes_are_learned(backbone: Backbone) -> None:
    of = samples(backbone, kl_coef=0.1)
    votes = [(scored_reply(of, index), index % 2 == 0, 1.0) for index in range(12)]
    train(backbone, KTO(votes, 6, torch.Generator().manual_seed(0)), of, steps=20)
    ratios_B = log_ratios(backbone, of).view(-1)
    assert ratios_B[0::2].mean() > ratios_B[1::2].mean() + 0.5


@pytest.mark.parametrize("kind", ["pairs", "single"])
def test_a_vote_that_weighs_less_teaches_less(backbone: Backbone, kind: str) -> None:
    of = samples(backbone, kl_coef=0.1)

    def of_weights(*weights: float) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        if kind == "pairs":
            pairs = [
                (scored_reply(of, 4 * row), scored_reply(of, 4 * row + 1), each)
                for row, each in enumerate(weights)
            ]
            return gradient(backbone, DPO(pairs, len(pairs), generator), of)
        votes = [(scored_reply(of, 4 * row), True, each) for row, each in enumerate(weights)]
        return gradient(backbone, KTO(votes, len(votes), generator), of)

    with backbone.full_precision():
        first, second, both = of_weights(1.0, 0.0), of_weights(0.0, 1.0), of_weights(0.5, 0.25)
    for one, other, together in zip(first, second, both, strict=True):
        torch.testing.assert_close(together, 0.5 * one + 0.25 * other, rtol=1e-3, atol=1e-6)


def test_each_vote_is_taken_once_before_any_is_taken_again(backbone: Backbone) -> None:
    of = samples(backbone, kl_coef=0.1)
    seen: list[int] = []
    numbered = [(ScoredReply([number], [number], 0.0), True, 1.0) for number in range(5)]

    class Listening(KTO):
        def backward(self, backbone: Backbone, batch: Batch) -> None:
            seen.extend(self._draw())

    objective = Listening(numbered, 2, torch.Generator().manual_seed(0))
    for _ in range(5):
        objective.backward(backbone, of)
    assert sorted(seen) == sorted([*range(5), *range(5)])
    assert sorted(seen[:5]) == list(range(5))


def test_replies_of_equal_reward_are_no_pair(backbone: Backbone) -> None:
    of = samples(backbone, kl_coef=0.1)
    even = replace(of, rewards_PK=torch.zeros(3, 4))
    OnlineDPO().backward(backbone, even)
    assert all(weight.grad is None for weight in backbone.trainable())


class Nothing:
    def backward(self, backbone: Backbone, batch: Batch) -> None:
        pass


def test_what_was_demonstrated_becomes_likelier_if_it_weighs_anything(backbone: Backbone) -> None:
    of = samples(backbone, kl_coef=0.1)
    shown = [demonstration(of, 0, 1.0), demonstration(of, 5, 0.0)]
    train(backbone, WithSFT(Nothing(), SFTLoss(shown, 1.0, 8, torch.Generator().manual_seed(0))), of)
    ratios_B = log_ratios(backbone, of).view(-1)
    assert ratios_B[0] > 1
    assert ratios_B[0] > ratios_B[5] + 1


def test_sft_is_the_same_in_batches_of_any_size(backbone: Backbone) -> None:
    of = samples(backbone, kl_coef=0.1)
    shown = [demonstration(of, index, 1 / (1 + index)) for index in range(len(of.prompts))]
    gradients = []
    for budget in (TokenBudget(), TokenBudget(training=100)):
        backbone.token_budget = budget
        with_sft = WithSFT(Nothing(), SFTLoss(shown, 0.5, len(shown), torch.Generator().manual_seed(0)))
        with backbone.full_precision():
            gradients.append(gradient(backbone, with_sft, of))
    for whole, in_parts in zip(*gradients, strict=True):
        torch.testing.assert_close(in_parts, whole, rtol=1e-3, atol=1e-6)


def test_sft_adds_to_the_objective_beside_it(backbone: Backbone) -> None:
    of = samples(backbone, kl_coef=0.1)
    shown = [demonstration(of, 3, 1.0)]
    parts = [
        gradient(backbone, OnlineDPO(), of),
        gradient(backbone, WithSFT(Nothing(), SFTLoss(shown, 0.5, 1, torch.Generator())), of),
    ]
    both = gradient(backbone, WithSFT(OnlineDPO(), SFTLoss(shown, 0.5, 1, torch.Generator())), of)
    for one, other, together in zip(*parts, both, strict=True):
        torch.testing.assert_close(together, one + other)
