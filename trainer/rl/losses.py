"""The mathematics of the policy update: pure functions, no model and no settings.

Shapes: P prompts, K replies to each, B = P·K replies, T tokens. Everything is in nats.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def leave_one_out(rewards_PK: Tensor) -> Tensor:
    """Advantages (P, K) or (P, K, T): each reply's reward, or what it earns from a place on, minus the mean
    of the other replies to the same prompt (RLOO: Kool et al. 2019; Ahmadian et al. 2024)."""
    others = rewards_PK.shape[1] - 1
    mean_of_others_PK = (rewards_PK.sum(1, keepdim=True) - rewards_PK) / others
    return rewards_PK - mean_of_others_PK


def above_group(rewards_PK: Tensor) -> Tensor:
    """Advantages, as above, but minus the mean of all replies to the same prompt. GRPO's (Shao et al. 2024)
    without its division by the group's standard deviation, which favours prompts that are too easy or too
    hard (Liu et al. 2025)."""
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


def returns(rewards_PK: Tensor, logprobs_BT: Tensor, reference_BT: Tensor, beta: float) -> Tensor:
    """(P, K, T) what a reply earns from each of its places on: its reward, less β·(log π − log π_base) of the
    token there and of all after it. Those before it are not its doing, and would only add noise. Behind a
    reply's end both logprobs are zero."""
    charged_BT = beta * (logprobs_BT - reference_BT)
    to_go_BT = charged_BT.flip(1).cumsum(1).flip(1)
    return rewards_PK.unsqueeze(2) - to_go_BT.view(*rewards_PK.shape, -1)


def unsure(logprobs_BT: Tensor, reference_BT: Tensor, mask_BT: Tensor, sure: float) -> Tensor:
    """How unsure the policy has become where the base was sure, that is, gave the token there at least the
    probability `sure`: the KL of π to π_base between this token and any other, summed, divided by the number
    of all tokens. It is exact at each place, while of a sample's own log π − log π_base only the rare sample
    of another token tells anything."""
    token_BT, base_BT = (each.clamp_max(-1e-6) for each in (logprobs_BT, reference_BT))
    other_BT, base_other_BT = (torch.log(-torch.expm1(each)) for each in (token_BT, base_BT))
    kl_BT = token_BT.exp() * (token_BT - base_BT) + other_BT.exp() * (other_BT - base_other_BT)
    return (kl_BT * (base_BT.exp() >= sure) * mask_BT).sum() / mask_BT.sum()


def dpo(better_B: Tensor, worse_B: Tensor, beta: float) -> Tensor:
    """(B,) of pairs of replies, given as log π − log π_base of the whole reply (Rafailov et al. 2023)."""
    return -logsigmoid(beta * (better_B - worse_B))


def kto(log_ratio_B: Tensor, good_B: Tensor, kl: float, beta: float) -> Tensor:
    """(B,) of single replies, called good or not, given as log π − log π_base of the whole reply; `kl` is
    KL(π‖π_base) in nats a reply, against which a reply is worth something (Ethayarajh et al. 2024; both kinds
    weigh the same)."""
    worth_B = beta * (log_ratio_B - kl)
    return 1 - torch.where(good_B, worth_B, -worth_B).sigmoid()


def imitation(logprobs_BT: Tensor, mask_BT: Tensor, weights_B: Tensor) -> Tensor:
    """−Σ weight·log π over the tokens of demonstrations, divided by their number (behaviour cloning). A
    demonstration that weighs less teaches less, and does not make the others teach more."""
    return -(weights_B.unsqueeze(1) * logprobs_BT * mask_BT).sum() / mask_BT.sum()
