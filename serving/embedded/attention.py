"""Grouped-query attention of one new token (Ainslie et al. 2023) reads keys and values where they are: the
query heads that share a key become rows of one product. transformers copies keys and values for each query
head where there is a mask, that is, the whole KV cache at each step."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_NAME = "grouped_decode"


def use_grouped_decode(model: PreTrainedModel) -> None:
    """Makes the model attend by `_attend`, if its architecture lets one choose."""
    if model._supports_attention_backend:
        AttentionInterface.register(_NAME, _attend)
        AttentionMaskInterface.register(_NAME, sdpa_mask)
        model.set_attn_implementation(_NAME)


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Returns (B, T, H, D) for queries (B, H, T, D) over keys and values (B, G, L, D), where H is a multiple
    of G; the mask is (B, 1, T, L), True where a query sees a key."""
    rows, heads, new, size = query.shape
    groups = key.shape[1]
    if new > 1 or options.get("position_bias") is not None:
        outcome: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return outcome
    grouped = query.view(rows, groups, heads // groups, size)
    out = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return out.view(rows, 1, heads, size), None
