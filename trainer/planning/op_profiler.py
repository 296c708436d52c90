"""OpProfiler estimates the time and memory of torch code from the operations that it dispatches.

It is a TorchDispatchMode, so it sees every operation that reaches torch's kernels, also on fake tensors. Time
follows the roofline model (`Rates`); memory is tracked from the storages that come and go.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any
from weakref import finalize

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from trainer.model.device import MMAP_THRESHOLD, Rates
from trainer.planning.fake_model import FakeBackbone

BF16_WEIGHTS, CACHE = "weights in bfloat16", "KV cache"
LOGITS, ACTIVATIONS = "logits", "activations"
"""The kinds of tensors that memory is counted by."""

FRAGMENTATION = "heap fragmentation"
"""The kind for memory that glibc's heap loses to holes. On a CPU, tensors below MMAP_THRESHOLD come from that
heap, which holds about twice their bytes. The factor was measured with `tests.bench.plan`."""


class OpProfiler(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside it, `flops` and `seconds` add up the operations; `live` holds the bytes of the tensors allocated
    there by kind, and `peak` is `live` when its total was highest."""

    def __init__(self, backbone: FakeBackbone, rates: Rates) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._vocab_size = backbone.vocab_size
        self._heap = not backbone.on_gpu
        self._rates = rates
        self._weights = {_storage(weight) for weight in backbone.model.parameters()}
        self._known = set(self._weights)
        self.live: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self.flops = 0
        self.seconds = 0.0

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, operations and peaks are not counted. Tensors that remain afterwards are in `live`."""
        kept = self.flops, self.seconds, self.peak
        yield
        self.flops, self.seconds, self.peak = kept

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        outputs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        fresh = sum(self._track(func, args, inputs, tensor) for tensor in outputs)
        moved = 0 if func.is_view else sum(tensor.nbytes for tensor in (*inputs, *outputs))
        flops = _flops(func, args, kwargs, out)
        self.flops += flops
        self.seconds += self._rates.seconds(
            flops, moved, fresh, outputs[0].dtype if outputs else torch.float32
        )
        return out

    def _track(self, func: Any, args: tuple[Any, ...], inputs: list[Tensor], tensor: Tensor) -> int:
        """Adds an output to `live` until it is freed; returns the bytes of fresh pages that it needs."""
        key, size = _storage(tensor), tensor.untyped_storage().nbytes()
        if key in self._known or any(key == _storage(other) for other in inputs):
            return 0
        parts = Counter({self._kind(func, args, inputs, tensor): size})
        if self._heap and size < MMAP_THRESHOLD:
            parts[FRAGMENTATION] = size

        def freed() -> None:
            self._known.discard(key)
            self.live.subtract(parts)

        finalize(tensor.untyped_storage(), freed)
        self._known.add(key)
        self.live.update(parts)
        if self.live.total() > self.peak.total():
            self.peak = self.live.copy()
        return size if self._heap and size >= MMAP_THRESHOLD else 0

    def _kind(self, func: Any, args: tuple[Any, ...], inputs: list[Tensor], tensor: Tensor) -> str:
        of_weights = bool(inputs) and _storage(inputs[0]) in self._weights
        if func is torch.ops.aten._to_copy.default and of_weights:
            return BF16_WEIGHTS
        if func is torch.ops.aten.cat.default and args[1:] == (-2,):  # keys and values grow in this dimension
            return CACHE
        return LOGITS if tensor.shape[-1:] == (self._vocab_size,) else ACTIVATIONS


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _flops(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    if func is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default:
        query, key, value = args[:3]
        return int(sdpa_flop_count(query.shape, key.shape, value.shape))  # type: ignore[no-untyped-call]
    count = flop_registry.get(func.overloadpacket)
    return int(count(*args, **kwargs, out_val=out)) if count is not None else 0
