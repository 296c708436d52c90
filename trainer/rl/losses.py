"""This module implements the losses and advantages of policy optimisation as pure functions of tensors.

Shapes: P prompts, K replies to each, B = P·K replies, T tokens. All log-probabilities are in nats.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def leave_one_out(rewards_PK: Tensor) -> Tensor:
    """Returns leave-one-out advantages of rewards (P, K) or returns (P, K, T): each reply's, minus the mean
    of the other replies to the same prompt (RLOO: Kool et al. 2019; Ahmadian et al. 2024)."""
    others = rewards_PK.shape[1] - 1
    mean_of_others_PK = (rewards_PK.sum(1, keepdim=True) - rewards_PK) / others
    return rewards_PK - mean_of_others_PK


def group_mean(rewards_PK: Tensor) -> Tensor:
    """Returns GRPO's advantages (Shao et al. 2024): minus the mean of all replies to the same prompt, without
    the division by the group's standard deviation, which favours prompts that are too easy or too hard (Liu
    et al. 2025)."""
    return rewards_PK - rewards_PK.mean(1, keepdim=True)


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


def returns_to_go(rewards_PK: Tensor, logprobs_BT: Tensor, reference_BT: Tensor, kl_coef: float) -> Tensor:
    """Returns the (P, K, T) return from each token on: the reply's reward, less β·(log π − log π_base) summed
    over this and the later tokens. Earlier tokens do not depend on it and would add variance. Both logprobs
    are zero after a reply's end."""
    penalty_BT = kl_coef * (logprobs_BT - reference_BT)
    to_go_BT = penalty_BT.flip(1).cumsum(1).flip(1)
    return rewards_PK.unsqueeze(2) - to_go_BT.view(*rewards_PK.shape, -1)


def confident_token_kl(
    logprobs_BT: Tensor, reference_BT: Tensor, mask_BT: Tensor, min_probability: float
) -> Tensor:
    """Returns the KL(π‖π_base) on confident tokens, where the base gave the sampled token at least
    `min_probability`: the binary KL between this token and any other, summed and divided by the number of
    all tokens. It is exact at each token; the estimate log π − log π_base changes only when another token is
    sampled, which is rare there."""
    token_BT, base_BT = (each.clamp_max(-1e-6) for each in (logprobs_BT, reference_BT))
    other_BT, base_other_BT = (torch.log(-torch.expm1(each)) for each in (token_BT, base_BT))
    kl_BT = token_BT.exp() * (token_BT - base_BT) + other_BT.exp() * (other_BT - base_other_BT)
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
