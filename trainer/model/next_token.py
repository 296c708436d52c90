"""NextToken reads expectations over the whole distribution of the next token off hidden states: of a value of
each token, and of the log-ratio to the base, which is the KL to the base in this place.

As in `token_logprobs`, Jacobians are computed while the logits are there, so none are kept.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear


@dataclass(frozen=True, slots=True)
class TokenValues:
    """The value of each token (V,), those that end a reply, whose value counts as that of the others, and the
    (B, R, D) hidden states of the base from which a batch's reply tokens are read."""

    values_V: Tensor
    eos_ids: list[int]
    base_BRD: Tensor


class NextToken(torch.autograd.Function):
    """Returns (N, 2), both at the temperature: the expected value of the next token, given that it does not
    end the reply, and the KL(π‖π_base) of the next token, nats. Gradients flow to the hidden states
    `states_ND` only."""

    @staticmethod
    def forward(
        ctx: Any, states_ND: Tensor, base_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None,
        values_V: Tensor, eos_ids: list[int], temperature: float,
    ) -> Tensor:  # fmt: skip
        logp_NV = (linear(states_ND, weight_VD, bias_V).float() / temperature).log_softmax(1)
        base_NV = (linear(base_ND, weight_VD, bias_V).float() / temperature).log_softmax(1)
        p_NV = logp_NV.exp()
        ends_NE, ends_ED = p_NV[:, eos_ids], weight_VD[eos_ids].float()
        goes_on_N1 = (1 - ends_NE.sum(1, keepdim=True)).clamp_min(1e-6)
        mean_ND = linear(p_NV, weight_VD.T).float()
        ratio_NV = logp_NV.sub_(base_NV).mul_(p_NV)
        kl_N1 = ratio_NV.sum(1, keepdim=True)
        of_kl_ND = linear(ratio_NV, weight_VD.T).float() - kl_N1 * mean_ND
        worth_NV = p_NV.mul_(values_V)
        value_N1 = worth_NV.sum(1, keepdim=True) / goes_on_N1
        others_ND = mean_ND - ends_NE @ ends_ED
        of_value_ND = (linear(worth_NV, weight_VD.T).float() - value_N1 * others_ND) / goes_on_N1
        jacobians = (of_value_ND, of_kl_ND)
        ctx.save_for_backward(*((each / temperature).to(states_ND.dtype) for each in jacobians))
        return torch.cat([value_N1, kl_N1], 1)

    @staticmethod
    def backward(ctx: Any, gradient_N2: Tensor) -> tuple[Tensor, None, None, None, None, None, None]:
        of_value_ND, of_kl_ND = ctx.saved_tensors
        of_states_ND = gradient_N2[:, :1] * of_value_ND + gradient_N2[:, 1:] * of_kl_ND
        return of_states_ND.to(of_value_ND.dtype), None, None, None, None, None, None
