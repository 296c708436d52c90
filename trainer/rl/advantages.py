"""This module implements returns and advantages of sampled replies as pure functions of tensors.

Shapes: P prompts, K replies to each, B = P·K replies, T tokens. All log-probabilities are in nats.
"""

from torch import Tensor


def returns_to_go(rewards_PK: Tensor, logprobs_BT: Tensor, reference_BT: Tensor, kl_coef: float) -> Tensor:
    """Returns the (P, K, T) return from each token on: the reply's reward, less β·(log π − log π_base) summed
    over this and the later tokens. Earlier tokens do not depend on it and would add variance. Both logprobs
    are zero after a reply's end."""
    penalty_BT = kl_coef * (logprobs_BT - reference_BT)
    to_go_BT = penalty_BT.flip(1).cumsum(1).flip(1)
    return rewards_PK.unsqueeze(2) - to_go_BT.view(*rewards_PK.shape, -1)


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
