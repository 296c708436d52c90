"""Decoding takes one token a step for many rows: its products are thin, and reading memory takes its time.

So inside `fast_decoding` three things are other than in training. LoRA layers compute W·x + B·A·x in two
products, where PEFT needs seven operations; a CPU that multiplies bfloat16 reads the frozen matrices in it,
packed once in oneDNN's order. Query heads that share a key (grouped-query attention, Ainslie et al. 2023)
become rows of one product, where transformers copies the KV cache for each of them. And the KV cache
(`kv_cache`) has spare columns, so that a step does not copy all of it.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from peft import PeftModel
from peft.tuners import lora
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, DynamicLayer
from transformers.cache_utils import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

SPARE_COLUMNS = 64
"""Columns of the KV cache that are allocated ahead."""

GROUPED = "grouped_queries"
"""The name by which transformers knows `_attend`."""

Product = Callable[[Tensor], Tensor]
"""Multiplies rows by a matrix in bfloat16."""


def packed_product(weight: Tensor) -> Product:
    """Returns x ↦ W·x with a packed copy of the matrix; it sums in float32."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().bfloat16(), None)
    multiply = torch.ops.mkldnn._linear_pointwise
    return lambda x: multiply(x.bfloat16(), packed, None, "none", [], "")


def plain_product(weight: Tensor) -> Product:
    """Returns x ↦ W·x with a copy of the matrix that is not packed: fake tensors cannot be."""
    rounded = weight.detach().bfloat16()
    return lambda x: linear(x.bfloat16(), rounded)


@contextlib.contextmanager
def fast_decoding(model: PeftModel, product: Callable[[Tensor], Product] | None) -> Iterator[None]:
    """Inside, the model decodes as described above, with the adapter as it is now; passes have no gradient.
    With a `product` it multiplies by the frozen matrices in bfloat16."""
    layers = [module for module in model.modules() if type(module) is lora.Linear]
    usual = model.config._attn_implementation
    grouped = usual == "sdpa" and model.get_base_model()._supports_attention_backend
    for layer in layers:
        layer.forward = _projection(layer, product)
    if grouped:
        AttentionInterface.register(GROUPED, _attend)
        AttentionMaskInterface.register(GROUPED, sdpa_mask)
        model.set_attn_implementation(GROUPED)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
        if grouped:
            model.set_attn_implementation(usual)


def _projection(layer: lora.Linear, product: Callable[[Tensor], Product] | None) -> Callable[..., Tensor]:
    base = layer.get_base_layer()
    multiply = product(base.weight) if product is not None and type(base) is torch.nn.Linear else None
    delta = None
    if not layer.disable_adapters:
        down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        of = base.weight.dtype
        delta = down.to(of), (up * layer.scaling["default"]).to(of).T.contiguous()

    def project(x: Tensor, *_: Any, **__: Any) -> Tensor:
        if multiply is None:
            out: Tensor = base(x)
        else:
            out = multiply(x).to(x.dtype)
            if base.bias is not None:
                out += base.bias
        if delta is not None:
            low_NK = linear(x, delta[0]).flatten(0, -2)
            out.view(-1, out.shape[-1]).addmm_(low_NK, delta[1])
        return out

    return project


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attends from (B, H, T, D) queries to (B, G, L, D) keys and values, H a multiple of G; returns
    (B, T, H, D)."""
    rows, heads, new, size = query.shape
    if new > 1 or options.get("position_bias") is not None:
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return found
    shared = query.reshape(rows, key.shape[1], -1, size)
    out = scaled_dot_product_attention(shared, key, value, attn_mask=attention_mask, scale=scaling)
    return out.reshape(rows, 1, heads, size), None


def kv_cache(config: Any) -> Cache:
    """Returns an empty KV cache; layers with a sliding window keep transformers' own."""
    cache = DynamicCache(config=config)
    cache.layers = [_SpareLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class _SpareLayer(DynamicLayer):  # type: ignore[misc]
    """A layer whose `keys` and `values` are views of tensors with spare columns."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._spare = [key_states[:, :, :0], value_states[:, :, :0]]
            self.keys, self.values = self._spare
        begin, end = self.keys.shape[2], self.keys.shape[2] + key_states.shape[2]
        if len(self._spare[0]) != len(self.keys) or end > self._spare[0].shape[2]:
            self._spare = [_with_spare(self.keys, end), _with_spare(self.values, end)]
        for spare, new in zip(self._spare, (key_states, value_states), strict=True):
            spare[:, :, begin:end] = new
        self.keys, self.values = (spare[:, :, :end] for spare in self._spare)
        return self.keys, self.values


def _with_spare(old: Tensor, columns: int) -> Tensor:
    rows, heads, length, size = old.shape
    new = old.new_empty(rows, heads, columns + SPARE_COLUMNS, size)
    new[:, :, :length] = old
    return new
