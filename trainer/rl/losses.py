"""This module implements the losses of policy optimisation as pure functions of tensors.

Shapes: P prompts, K replies to each, B = P·K replies, T tokens. All log-probabilities are in nats.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

MAX_SURPRISE = 20.0
"""Largest surprise of a token, nats: beyond, the loss has no gradient."""


def importance_weights(logprobs_BT: Tensor, sampler_BT: Tensor, cap: float) -> Tensor:
    """Returns the truncated importance weight π/μ of each token, at most `cap` (Ionides 2008), without
    gradient: the sampler's arithmetic differs from the trainer's, and its policy may be older."""
    return (logprobs_BT.detach() - sampler_BT).exp().clamp_max(cap)


def policy_gradient(
    logprobs_BT: Tensor,
    sampler_BT: Tensor,
    advantages_BT: Tensor,
    mask_BT: Tensor,
    *,
    importance_weight_cap: float,
) -> Tensor:
    """Returns the token-level policy-gradient loss (REINFORCE, Williams 1992): summed over tokens, divided by
    their number (one denominator for the batch, Yu et al. 2025).

    `sampler_BT` are the logprobs that came with the samples; `advantages_BT` may be (B, 1), the same for all
    tokens of a reply. PPO's clipping is left out: each batch of samples gets one optimizer step, where the
    ratio of the policy to itself is 1.
    """
    ratio_BT = (logprobs_BT - logprobs_BT.detach()).exp()  # 1, with the gradient of log π
    gain_BT = ratio_BT * advantages_BT * importance_weights(logprobs_BT, sampler_BT, importance_weight_cap)
    return -(gain_BT * mask_BT).sum() / mask_BT.sum()


def state_shift(
    shift_BTD: Tensor,
    direction_D: Tensor,
    variance: float,
    mask_BT: Tensor,
    weight_BT: Tensor,
    kl_coef: float,
) -> Tensor:
    """Returns the regression loss of hidden states on those of the best policy for a `TokenCritic`, summed
    over the tokens of replies, divided by their number. `shift_BTD` is what the adapter adds to the base's
    states, divided by the temperature; it is to be direction·weight/β, where the weight of a place is
    1/length, or less where the values of tokens have fallen. Along the direction it is −value + β·KL, with
    the KL of a shift s·direction taken as s²·variance/2."""
    error_BT = (shift_BTD - (weight_BT / kl_coef).unsqueeze(2) * direction_D).square().sum(2)
    scale = kl_coef * variance / (2 * direction_D.square().sum())
    return scale * (error_BT * mask_BT).sum() / mask_BT.sum()


def confident_token_kl(
    logprobs_BT: Tensor, base_BT: Tensor, mask_BT: Tensor, min_probability: float
) -> Tensor:
    """Returns the KL(π_base‖π) where the base is confident: where it gives its most likely token at least
    `min_probability`. Both log-probabilities are of that token, whatever was sampled, and the KL is the
    binary one between it and any other, summed and divided by the number of all tokens. It grows without
    bound as the policy drops the token, so a fact that has flipped is pulled back."""
    token_BT, base_BT = (each.clamp(-MAX_SURPRISE, -1e-6) for each in (logprobs_BT, base_BT))
    other_BT, base_other_BT = (torch.log(-torch.expm1(each)) for each in (token_BT, base_BT))
    kl_BT = base_BT.exp() * (base_BT - token_BT) + base_other_BT.exp() * (base_other_BT - other_BT)
    return (kl_BT * (base_BT.exp() >= min_probability) * mask_BT).sum() / mask_BT.sum()


def dpo(chosen_B: Tensor, rejected_B: Tensor, beta: float) -> Tensor:
    """Returns the (B,) DPO losses of pairs of replies, given as log π − log π_base of whole replies (Rafailov
    et al. 2023)."""
    return -logsigmoid(beta * (chosen_B - rejected_B))


def kto(log_ratio_B: Tensor, good_B: Tensor, kl: float, beta: float) -> Tensor:
    """Returns the (B,) KTO losses of single replies with binary labels, given as log π − log π_base of whole
    replies (Ethayarajh et al. 2024, with equal weights of both labels). `kl` is the reference point,
    KL(π‖π_base) in nats a reply."""
    value_B = beta * (log_ratio_B - kl)
    return 1 - torch.where(good_B, value_B, -value_B).sigmoid()


def weighted_nll(logprobs_BT: Tensor, mask_BT: Tensor, weights_B: Tensor) -> Tensor:
    """Returns the SFT loss: −Σ weight·log π over the tokens of demonstrations, divided by their number. A
    lower weight does not raise the other demonstrations' share."""
    return -(weights_B.unsqueeze(1) * logprobs_BT * mask_BT).sum() / mask_BT.sum()


def self_distillation(logprobs_BT: Tensor, teacher_BT: Tensor, mask_BT: Tensor, weights_B: Tensor) -> Tensor:
    """Returns the on-policy distillation loss (Agarwal et al. 2024) of samples of the policy, which another
    prompt makes its own teacher (Shenfeld et al. 2026). Its gradient is that of the reverse KL(π‖teacher) of
    each token, estimated on the token that was sampled: Σ weight·(log π − log π_teacher)·∇log π, divided by
    the number of tokens. The teacher has no gradient."""
    surprise_BT = (logprobs_BT - teacher_BT).detach().clamp(-MAX_SURPRISE, MAX_SURPRISE)
    return (weights_B.unsqueeze(1) * surprise_BT * logprobs_BT * mask_BT).sum() / mask_BT.sum()


def edit_preference(edit_E: Tensor, samples_EK: Tensor, beta: float) -> Tensor:
    """Returns the (E,) mean losses of pairs of an edit and each of the policy's own samples to its prompt,
    given as log π − log π_base of whole replies. The implicit reward β·log π/π_base is to tell what a person
    wrote from what the policy writes now: inverse reinforcement learning by self-play (SPIN: Chen et al.
    2024)."""
    return dpo(edit_E.unsqueeze(1), samples_EK, beta).mean(1)
