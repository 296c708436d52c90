"""This module computes a base that is in bfloat16 in float32, by a copy of one module's weights at a time.

In bfloat16 the rounding of a large model's logits alone moves a reply by a quarter of a nat, which is more
than a small step moves it. The whole base in float32 would take twice its memory.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


@contextlib.contextmanager
def float32_modules(model: torch.nn.Module) -> Iterator[None]:
    """Inside, each module with weights in bfloat16 computes with a copy of them in float32, which lasts for
    its own pass; the hidden states are in float32 then, too. For passes without gradients."""
    hooks = []
    kept: dict[torch.nn.Parameter, Tensor] = {}

    def widen(module: torch.nn.Module, _args: Any) -> None:
        for weight in module.parameters(recurse=False):
            if weight.dtype == torch.bfloat16:
                kept[weight] = weight.data
                weight.data = weight.data.float()

    def narrow(module: torch.nn.Module, _args: Any, _output: Any) -> None:
        for weight in module.parameters(recurse=False):
            if weight in kept:
                weight.data = kept.pop(weight)

    for module in model.modules():
        if any(weight.dtype == torch.bfloat16 for weight in module.parameters(recurse=False)):
            hooks.append(module.register_forward_pre_hook(widen))
            hooks.append(module.register_forward_hook(narrow, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
