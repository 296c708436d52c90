"""TokenLogprobs reads log-probabilities of tokens off hidden states, with their Jacobians in the same pass.

With a large vocabulary most memory of a training pass would be logits, and a third of its time their softmax
and its gradient. Only one or two log-probabilities are read at each place, and the gradient of each is known
in closed form, (w_token − E_p[w])/τ with the rows w of the output matrix. So it is computed while the logits
are there, and takes as much memory as the hidden states (in the spirit of Liger's fused linear cross-entropy,
Hsu et al. 2024).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear


class TokenLogprobs(torch.autograd.Function):
    """Returns (N, 2) log-probabilities, nats: of `tokens_N` at the temperature, and of `others_N` at
    temperature 1. Gradients flow to the hidden states `states_ND` only: the output matrix `weight_VD` is
    frozen."""

    @staticmethod
    def forward(
        ctx: Any, states_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None,
        tokens_N: Tensor, others_N: Tensor, temperature: float,
    ) -> Tensor:  # fmt: skip
        logits_NV = linear(states_ND, weight_VD, bias_V).float()
        if temperature == 1:
            (first_N, first_ND), (other_N, other_ND) = _read(logits_NV, weight_VD, tokens_N, others_N)
        else:
            [(first_N, first_ND)] = _read(logits_NV / temperature, weight_VD, tokens_N)
            [(other_N, other_ND)] = _read(logits_NV, weight_VD, others_N)
        ctx.save_for_backward((first_ND / temperature).to(states_ND.dtype), other_ND.to(states_ND.dtype))
        return torch.stack([first_N, other_N], 1)

    @staticmethod
    def backward(ctx: Any, gradient_N2: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        first_ND, other_ND = ctx.saved_tensors
        of_states_ND = gradient_N2[:, :1] * first_ND + gradient_N2[:, 1:] * other_ND
        return of_states_ND.to(first_ND.dtype), None, None, None, None, None


def _read(logits_NV: Tensor, weight_VD: Tensor, *columns: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Returns the log-probabilities of each column of tokens (N,), and their gradients by the hidden states.
    Overwrites the logits."""
    largest_N1 = logits_NV.amax(1, keepdim=True)
    exponents = [logits_NV.gather(1, tokens_N.unsqueeze(1)) - largest_N1 for tokens_N in columns]
    mass_NV = logits_NV.sub_(largest_N1).exp_()
    total_N1 = mass_NV.sum(1, keepdim=True)
    expected_ND = linear(mass_NV, weight_VD.T) / total_N1
    return [
        ((exponent_N1 - total_N1.log()).squeeze(1), weight_VD[tokens_N] - expected_ND)
        for exponent_N1, tokens_N in zip(exponents, columns, strict=True)
    ]
