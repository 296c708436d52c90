"""The policy update's formulas, against closed forms."""

import math
from collections.abc import Callable
from itertools import product
from statistics import mean

import pytest
import torch
from torch import Tensor, tensor
from torch.distributions import Bernoulli, Categorical, kl_divergence

from trainer.model.rollouts import pad_rows
from trainer.reward.scoring import kl_per_reply
from trainer.rl import losses
from trainer.rl.advantages import generalised_advantages, group_mean, kl_to_go, leave_one_out

torch.set_num_threads(1)


def test_leave_one_out_compares_with_the_other_replies() -> None:
    advantages_PK = leave_one_out(tensor([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]]))
    assert torch.allclose(advantages_PK, tensor([[-3.0, -1.5, 4.5], [0.0, 0.0, 0.0]]))


def test_leave_one_out_is_the_centred_reward_scaled() -> None:
    rewards_PK = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    centred = rewards_PK - rewards_PK.mean(1, keepdim=True)
    assert torch.allclose(leave_one_out(rewards_PK), centred * 8 / 7, atol=1e-6)


def test_importance_weights_are_the_ratio_cut_off() -> None:
    weights = losses.importance_weights(tensor([math.log(0.3), 0.0]), tensor([math.log(0.2), -2.0]), 2.0)
    assert torch.allclose(weights, tensor([1.5, 2.0]))


def test_the_policy_gradient_is_that_of_reinforce() -> None:
    logprobs_BT = tensor([[-1.0, -2.0], [-0.5, 0.0]], requires_grad=True)
    mask_BT = tensor([[1.0, 1.0], [1.0, 0.0]])
    losses.policy_gradient(
        logprobs_BT, logprobs_BT.detach(), tensor([[3.0], [-1.0]]), mask_BT, importance_weight_cap=2.0,
    ).backward()  # fmt: skip
    assert logprobs_BT.grad is not None
    assert torch.allclose(logprobs_BT.grad, -tensor([[3.0, 3.0], [-1.0, 0.0]]) / 3)


@pytest.mark.parametrize(("advantages", "scale"), [(leave_one_out, 1.0), (group_mean, 3 / 4)])
def test_advantages_of_returns_ascend_the_reward_less_the_exact_kl_of_replies(
    advantages: Callable[[Tensor], Tensor], scale: float
) -> None:
    """Replies of two tokens or, where the first is an end (0), of one: which token comes first decides what
    may be dear later. The reward is 1 for a reply that begins with token 2. The values of the prefixes are
    wrong on purpose: with λ = 1 they change no mean."""
    generator = torch.Generator().manual_seed(0)
    first_V = tensor([0.5, 0.0, -0.5], requires_grad=True)
    second_VV = tensor([[0.0, 0.0, 0.0], [2.0, 0.0, -1.0], [-1.0, 0.0, 1.0]], requires_grad=True)
    base_V, base_VV = tensor([0.3, 0.3, 0.4]).log(), tensor([[0.2, 0.5, 0.3]] * 3).log()
    beta, count = 0.5, 400_000
    one_N = torch.multinomial(first_V.detach().softmax(0), count, replacement=True, generator=generator)
    two_N = torch.multinomial(second_VV.detach().softmax(1)[one_N], 1, generator=generator)[:, 0]
    on_N = (one_N > 0).float()
    logprobs_BT = torch.stack(
        [first_V.log_softmax(0)[one_N], second_VV.log_softmax(1)[one_N, two_N] * on_N], 1
    )
    base_BT = torch.stack([base_V[one_N], base_VV[one_N, two_N] * on_N], 1)
    rewards_PK = (one_N == 2).float().view(-1, 4)
    values_BT = torch.stack([torch.zeros(count), tensor([0.0, 0.7, -0.4])[one_N] * on_N], 1)
    gains_PKT = generalised_advantages(rewards_PK, values_BT, 1 + on_N, gae_lambda=1.0)
    returns_PKT = gains_PKT - beta * kl_to_go(logprobs_BT.detach(), base_BT).view(gains_PKT.shape)
    loss = losses.policy_gradient(
        logprobs_BT, logprobs_BT.detach(), advantages(returns_PKT).flatten(0, 1),
        torch.stack([torch.ones(count), on_N], 1), importance_weight_cap=2.0,
    )  # fmt: skip
    found = torch.autograd.grad(loss * (count + on_N.sum()) / count, (first_V, second_VV))

    p_V, p_VV = first_V.softmax(0), second_VV.softmax(1)
    later_V = (p_VV * (p_VV.log() - base_VV)).sum(1) * tensor([0.0, 1.0, 1.0])
    kl = (p_V * (p_V.log() - base_V + later_V)).sum()
    exact = torch.autograd.grad(beta * kl - p_V[2], (first_V, second_VV))
    for sampled, wanted in zip(found, exact, strict=True):
        assert torch.allclose(sampled, scale * wanted, atol=3e-3)


def test_the_confident_token_kl_is_binary_and_counts_only_where_the_base_is_confident() -> None:
    base_BT = tensor([[0.99, 0.95, 0.89], [0.92, 1.0, 0.99]]).log()
    p_BT = tensor([[0.8, 0.97, 0.2], [0.92, 1.0, 0.5]], requires_grad=True)
    mask_BT = tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    found = losses.confident_token_kl(p_BT.log(), base_BT, mask_BT, 0.9)
    expected = kl_divergence(Bernoulli(base_BT[0, :2].exp()), Bernoulli(p_BT[0, :2])).sum() / 5
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    [slope_BT] = torch.autograd.grad(found, p_BT)
    [wanted_BT] = torch.autograd.grad(expected, p_BT)
    torch.testing.assert_close(slope_BT[0, :2], wanted_BT[0, :2], rtol=1e-4, atol=1e-5)
    assert slope_BT[0, 2] == slope_BT[1, 2] == 0, "not sure, and behind the end"
    assert slope_BT.isfinite().all()
    assert float(slope_BT[0, 0]) < 0 < float(slope_BT[0, 1]), "back to what the base gave it"


def test_kl_of_samples_estimates_the_kl_of_the_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    policy, reference = tensor([0.7, 0.2, 0.1]), tensor([0.3, 0.3, 0.4])
    tokens = torch.multinomial(policy, 40_000, replacement=True, generator=generator).view(-1, 4)
    logprobs_BT, reference_BT = policy.log()[tokens], reference.log()[tokens]
    mask_BT = torch.ones_like(logprobs_BT)
    exact = float((policy * (policy / reference).log()).sum())
    per_reply = kl_per_reply(logprobs_BT, reference_BT, mask_BT)
    assert abs(float(per_reply.mean()) - 4 * exact) < 0.04


def test_kl_counts_only_the_replies_own_tokens() -> None:
    mask_BT = tensor([[1.0, 0.0], [1.0, 1.0]])
    kl = kl_per_reply(tensor([[-1.0, 9.0], [-1.0, -1.0]]), tensor([[-2.0, 0.0], [-2.0, -3.0]]), mask_BT)
    assert kl.tolist() == [1.0, 3.0]


def test_rows_of_unlike_length_are_padded_with_zeros() -> None:
    values_BT, mask_BT = pad_rows([[1.0, 2.0], [3.0]])
    assert values_BT.tolist() == [[1.0, 2.0], [3.0, 0.0]]
    assert mask_BT.tolist() == [[1.0, 1.0], [1.0, 0.0]]


def test_above_the_group_is_the_centred_reward() -> None:
    advantages_PK = group_mean(tensor([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]]))
    assert torch.allclose(advantages_PK, tensor([[-2.0, -1.0, 3.0], [0.0, 0.0, 0.0]]))


def test_dpo_is_the_logistic_loss_of_the_margin() -> None:
    better_B, worse_B = tensor([1.0, -2.0], requires_grad=True), tensor([0.5, 1.0])
    loss_B = losses.dpo(better_B, worse_B, 0.1)
    assert torch.allclose(loss_B, tensor([math.log1p(math.exp(-0.05)), math.log1p(math.exp(0.3))]))
    loss_B.sum().backward()
    assert better_B.grad is not None
    assert torch.allclose(better_B.grad, tensor([-0.1 / (1 + math.exp(0.05)), -0.1 / (1 + math.exp(-0.3))]))


def test_kto_weighs_a_reply_against_the_kl() -> None:
    ratio_B = tensor([2.0, 2.0], requires_grad=True)
    loss_B = losses.kto(ratio_B, tensor([True, False]), 0.5, 0.2)
    worth = 0.2 * 1.5
    up, down = 1 / (1 + math.exp(-worth)), 1 / (1 + math.exp(worth))
    assert torch.allclose(loss_B, tensor([1 - up, 1 - down]))
    loss_B.sum().backward()
    assert ratio_B.grad is not None
    assert torch.allclose(ratio_B.grad, tensor([-0.2 * up * down, 0.2 * up * down]))


def test_imitation_is_the_weighted_mean_surprise_of_a_token() -> None:
    logprobs_BT = tensor([[-1.0, -3.0], [-2.0, -9.0]], requires_grad=True)
    mask_BT = tensor([[1.0, 1.0], [1.0, 0.0]])
    loss = losses.weighted_nll(logprobs_BT, mask_BT, tensor([1.0, 0.5]))
    assert loss.detach() == pytest.approx((1 + 3 + 0.5 * 2) / 3)
    loss.backward()
    assert logprobs_BT.grad is not None
    assert torch.allclose(logprobs_BT.grad, -tensor([[1.0, 1.0], [0.5, 0.0]]) / 3)


@pytest.mark.parametrize("seed", range(5))
def test_advantages_counted_out(seed: int) -> None:
    """Reply by reply, of what is earned from each place on; from the first that is the reward of TRL's RLOO,
    less β times the log-ratio of the whole reply."""
    generator = torch.Generator().manual_seed(seed)
    rewards_PK = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    logprobs_BT, base_BT, _ = ragged(generator)
    beta = 0.3
    whole_B = torch.full((12,), logprobs_BT.shape[1])
    gains_PKT = generalised_advantages(rewards_PK, torch.zeros_like(logprobs_BT), whole_B, gae_lambda=1.0)
    returns_PKT = gains_PKT - beta * kl_to_go(logprobs_BT, base_BT).view(gains_PKT.shape)
    earned = {
        (p, k, t): float(rewards_PK[p, k] - beta * (logprobs_BT - base_BT)[4 * p + k, t:].sum())
        for p, k, t in product(range(3), range(4), range(logprobs_BT.shape[1]))
    }
    for (p, k, t), each in earned.items():
        others = mean(earned[p, other, t] for other in range(4) if other != k)
        everyone = mean(earned[p, other, t] for other in range(4))
        assert float(leave_one_out(returns_PKT)[p, k, t]) == pytest.approx(each - others, abs=1e-9)
        assert float(group_mean(returns_PKT)[p, k, t]) == pytest.approx(each - everyone, abs=1e-9)


def test_generalised_advantages_discount_later_changes_and_end_with_the_reply() -> None:
    values_BT = tensor([[0.0, 0.5, 0.2], [0.0, 1.0, 9.0]])
    found_PKT = generalised_advantages(tensor([[1.0, 3.0]]), values_BT, tensor([3, 2]), gae_lambda=0.5)
    torch.testing.assert_close(
        found_PKT, tensor([[[0.5 - 0.15 + 0.2, -0.3 + 0.4, 0.8], [1.0 + 1.0, 2.0, 0.0]]])
    )


@pytest.mark.parametrize("advantages", [leave_one_out, group_mean])
def test_what_all_replies_to_a_prompt_earn_alike_is_no_advantage(
    advantages: Callable[[Tensor], Tensor],
) -> None:
    generator = torch.Generator().manual_seed(0)
    rewards_PK = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    shift_P1 = 10 * torch.randn(3, 1, generator=generator, dtype=torch.float64)
    same = {"atol": 1e-9, "rtol": 0.0}
    torch.testing.assert_close(advantages(rewards_PK + shift_P1), advantages(rewards_PK), **same)
    order = [2, 0, 3, 1]
    torch.testing.assert_close(advantages(rewards_PK[:, order]), advantages(rewards_PK)[:, order], **same)


@pytest.mark.parametrize("seed", range(5))
def test_the_kl_of_samples_is_that_of_the_distributions_over_all_there_are(seed: int) -> None:
    """Every reply of two tokens out of four, by its probability: value and slope."""
    generator = torch.Generator().manual_seed(seed)
    first_V, base_first_V = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    second_VV, base_second_VV = torch.randn(2, 4, 4, generator=generator, dtype=torch.float64)
    logits = [first_V.requires_grad_(), second_VV.requires_grad_()]
    one_N, two_N = torch.cartesian_prod(torch.arange(4), torch.arange(4)).T

    def logprobs(one_V: Tensor, two_VV: Tensor) -> Tensor:
        return torch.stack([one_V.log_softmax(0)[one_N], two_VV.log_softmax(1)[one_N, two_N]], 1)

    logprobs_NT, base_NT = logprobs(first_V, second_VV), logprobs(base_first_V, base_second_VV)
    p_N = logprobs_NT.sum(1).exp()
    found = (p_N * kl_per_reply(logprobs_NT, base_NT, torch.ones_like(base_NT))).sum()
    exact = kl_divergence(Categorical(p_N), Categorical(base_NT.sum(1).exp()))
    torch.testing.assert_close(found, exact, atol=1e-9, rtol=1e-9)
    slopes = [torch.autograd.grad(value, logits, retain_graph=True) for value in (found, exact)]
    for one, two in zip(*slopes, strict=True):
        torch.testing.assert_close(one, two, atol=1e-9, rtol=1e-7)


def ragged(generator: torch.Generator, rows: int = 12, tokens: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Logprobs, the base's and the mask of replies of unlike length, zeros behind their ends."""
    lengths_B = torch.randint(1, tokens + 1, (rows,), generator=generator)
    mask_BT = (torch.arange(tokens) < lengths_B.unsqueeze(1)).double()
    one_BT, two_BT = (
        -3 * torch.rand(rows, tokens, generator=generator, dtype=torch.float64) * mask_BT for _ in range(2)
    )
    return one_BT, two_BT, mask_BT


Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Of logprobs, the base's, the mask and one number for each reply."""

OF_TOKENS: dict[str, Loss] = {
    "policy_gradient": lambda own, other, mask, each: losses.policy_gradient(
        own, other + 0.1, each.unsqueeze(1), mask, importance_weight_cap=2.0
    ),
    "unsure": lambda own, base, mask, each: losses.confident_token_kl(own, base, mask, 0.5),
    "imitation": lambda own, base, mask, each: losses.weighted_nll(own, mask, each),
    "kl": lambda own, base, mask, each: kl_per_reply(own, base, mask).mean(),
    "dpo": lambda own, base, mask, each: losses.dpo(*kl_per_reply(own, base, mask).view(-1, 2).T, 0.3).mean(),
    "kto": lambda own, base, mask, each: losses.kto(kl_per_reply(own, base, mask), each > 0, 0.2, 0.3).mean(),
}


@pytest.mark.parametrize("loss", OF_TOKENS.values(), ids=OF_TOKENS)
@pytest.mark.parametrize("seed", range(5))
def test_nothing_but_a_replys_own_tokens_counts_wherever_they_lie(loss: Loss, seed: int) -> None:
    """Garbage behind the end, more room behind it, padding before it, and pairs in another order."""
    generator = torch.Generator().manual_seed(seed)
    own_BT, base_BT, mask_BT = ragged(generator)
    each_B = torch.randn(12, generator=generator, dtype=torch.float64)

    def of(own: Tensor, base: Tensor, mask: Tensor, each: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and its slope at each place."""
        own = own.detach().requires_grad_()
        value = loss(own, base, mask, each)
        return value.detach(), torch.autograd.grad(value, own)[0]

    value, slope_BT = of(own_BT, base_BT, mask_BT, each_B)
    assert float(slope_BT.abs().max()) > 1e-4
    assert not (slope_BT * (1 - mask_BT)).any()

    garbage_BT = -9 * torch.rand(own_BT.shape, generator=generator, dtype=torch.float64) * (1 - mask_BT)
    wider = torch.nn.functional.pad
    order = [4, 5, 0, 1, 10, 11, 2, 3, 8, 9, 6, 7]
    others = {
        "garbage": (of(own_BT + garbage_BT, base_BT - garbage_BT, mask_BT, each_B), slope_BT),
        "room": (
            of(*(wider(one, (0, 3)) for one in (own_BT, base_BT, mask_BT)), each_B),
            wider(slope_BT, (0, 3)),
        ),
        "left": (of(*(one.flip(1) for one in (own_BT, base_BT, mask_BT)), each_B), slope_BT.flip(1)),
        "order": (of(own_BT[order], base_BT[order], mask_BT[order], each_B[order]), slope_BT[order]),
    }
    for name, ((found, slope), wanted) in others.items():
        torch.testing.assert_close(found, value, atol=1e-9, rtol=1e-9, msg=name)
        torch.testing.assert_close(slope, wanted, atol=1e-9, rtol=1e-9, msg=name)


def test_self_distillation_descends_the_reverse_kl_of_each_token() -> None:
    """The expectation of its gradient, over all tokens that may be sampled, is that of the exact KL."""
    logits_V = tensor([0.3, -1.0, 0.8], requires_grad=True)
    teacher_V = tensor([1.0, 0.5, -0.5]).log_softmax(0)
    kl = kl_divergence(Categorical(logits=logits_V), Categorical(logits=teacher_V))
    (exact,) = torch.autograd.grad(kl, logits_V)
    expected = torch.zeros(3)
    for token, probability in enumerate(logits_V.detach().softmax(0)):
        logprob_BT = logits_V.log_softmax(0)[token].view(1, 1)
        teacher_BT = teacher_V[token].view(1, 1)
        loss = losses.self_distillation(logprob_BT, teacher_BT, torch.ones(1, 1), torch.ones(1))
        (found,) = torch.autograd.grad(loss, logits_V)
        expected += probability * found
    assert torch.allclose(expected, exact, atol=1e-6)


def test_self_distillation_raises_what_the_teacher_finds_likelier() -> None:
    logprobs_BT = tensor([[-1.0, -2.0], [-3.0, 0.0]], requires_grad=True)
    teacher_BT = tensor([[-0.5, -3.0], [-1.0, 0.0]], requires_grad=True)
    mask_BT, weights_B = tensor([[1.0, 1.0], [1.0, 0.0]]), tensor([1.0, 0.5])
    losses.self_distillation(logprobs_BT, teacher_BT, mask_BT, weights_B).backward()
    assert logprobs_BT.grad is not None
    assert torch.allclose(logprobs_BT.grad, tensor([[-0.5, 1.0], [-1.0, 0.0]]) / 3)
    assert teacher_BT.grad is None


def test_the_edit_is_preferred_to_each_sample_of_the_policy() -> None:
    """By hand: margins of 2 and 0 nats at β = ½ are losses of log(1 + e⁻¹) and log 2."""
    edit_E, samples_EK = tensor([1.0]).requires_grad_(), tensor([[-1.0, 1.0]]).requires_grad_()
    loss_E = losses.edit_preference(edit_E, samples_EK, 0.5)
    assert loss_E.item() == pytest.approx((math.log(1 + math.exp(-1)) + math.log(2)) / 2)
    loss_E.sum().backward()
    pull = [0.5 * (1 - 1 / (1 + math.exp(-1))) / 2, 0.5 * 0.5 / 2]
    assert samples_EK.grad is not None
    assert edit_E.grad is not None
    assert samples_EK.grad[0].tolist() == pytest.approx(pull)
    assert edit_E.grad.item() == pytest.approx(-sum(pull))
