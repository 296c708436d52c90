"""This module keeps the inputs of LoRA's matrices once and as they are, where the base is not in float32.

LoRA's matrices are in float32. PEFT casts their input for each of a layer's linear layers, and autograd keeps
every copy for the backward pass: of a base in bfloat16 more than half of all activations. Here the copy is
made again in the backward pass, so that only the base's own tensor is kept. The results are the same.
"""

from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from torch.nn.functional import linear


class _CastLinear(torch.autograd.Function):
    """x·Aᵀ in the precision of A, which keeps x in its own."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        return linear(x.to(weight.dtype), weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x = (gradient @ weight).to(x.dtype) if ctx.needs_input_grad[0] else None
        rows_NK, x_ND = gradient.flatten(0, -2), x.flatten(0, -2)
        return of_x, rows_NK.T @ x_ND.to(weight.dtype)


class _CastingLinear(torch.nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        found: Tensor = _CastLinear.apply(input, self.weight)  # type: ignore[no-untyped-call]
        return found


def keep_inputs_once(model: torch.nn.Module) -> None:
    """Makes the A matrices of all adapters of `model` do so. It is to be called again for a new adapter."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and layer.get_base_layer().weight.dtype != torch.float32:
            layer.cast_input_dtype_enabled = False
            for matrix in layer.lora_A.values():
                matrix.__class__ = _CastingLinear
