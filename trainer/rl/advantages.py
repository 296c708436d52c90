"""This module implements returns and advantages of sampled replies as pure functions of tensors.

Shapes: P prompts, K replies to each, B = P·K replies, T tokens. All log-probabilities are in nats.
"""

import torch
from torch import Tensor

GAE_LAMBDA = 0.995
"""λ of generalised advantage estimation, per token: after 200 tokens a third of what follows is counted."""


def kl_to_go(logprobs_BT: Tensor, reference_BT: Tensor) -> Tensor:
    """Returns (B, T) log π − log π_base, summed over each token and the later ones. Earlier tokens do not
    depend on it and would add variance. Both logprobs are zero after a reply's end."""
    return (logprobs_BT - reference_BT).flip(1).cumsum(1).flip(1)


def generalised_advantages(
    rewards_PK: Tensor, values_BT: Tensor, lengths_B: Tensor, gae_lambda: float = GAE_LAMBDA
) -> Tensor:
    """Returns the (P, K, T) generalised advantage estimates (GAE: Schulman et al. 2016) of the reward at each
    reply's end, with the reward of its prefix as the value before each token (`scoring.prefix_values`): a
    token is credited with what changes from it on. They are 0 after a reply's end. With λ = 1 the value would
    be a baseline of the prefix alone, which adds no bias whatever it is; a smaller λ lowers the variance."""
    columns = values_BT.shape[1]
    last_BT = torch.arange(columns) == lengths_B.unsqueeze(1) - 1
    within_BT = torch.arange(columns) < lengths_B.unsqueeze(1)
    next_BT = torch.cat([values_BT[:, 1:], values_BT.new_zeros(len(values_BT), 1)], 1)
    change_BT = (torch.where(last_BT, rewards_PK.flatten().unsqueeze(1), next_BT) - values_BT) * within_BT
    advantage_B, advantages = values_BT.new_zeros(len(values_BT)), []
    for column in range(columns - 1, -1, -1):
        advantage_B = change_BT[:, column] + gae_lambda * advantage_B
        advantages.append(advantage_B)
    return torch.stack(advantages[::-1], 1).view(*rewards_PK.shape, -1)


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
