"""A backbone without weights, and the account of what computing with it would take.

The model is built from its configuration on torch's meta device, then given tensors that have a shape, a
type and a device but no memory (torch's FakeTensor), so that the trainer's own code runs on it: attention,
autocast, recomputation and PEFT do what they would do. The ledger sees every operation that reaches torch's
kernels.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import finalize

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count
from transformers import AutoConfig, AutoModelForCausalLM

from schemas.settings import RLSettings
from trainer.model.backbone import Backbone
from trainer.model.device import MAPPED, Rates

ROUNDED, MERGED, CACHE = "weights in bfloat16", "merged copy of the weights", "KV cache"
LOGITS, ACTIVATIONS = "logits", "activations"
"""What a tensor may be."""

KEPT = "freed, kept by malloc"
"""On a CPU tensors below MAPPED come from glibc's heap. It holds about twice what lives in it, since tensors
of ever other sizes leave holes: measured, not derived (`tests/bench/plan.py`)."""


class Imagined(Backbone):
    """Computes nothing, and only inside `mode`."""

    def __init__(self, directory: Path, rl: RLSettings) -> None:
        with torch.device("meta"):
            super().__init__(directory, rl)
        self.mode = FakeTensorMode()
        made: dict[int, Tensor] = {}
        with self.mode:
            for module in self.model.modules():
                for tensors in (module._parameters, module._buffers):
                    for name, tensor in tensors.items():
                        if tensor is not None:
                            made.setdefault(id(tensor), self._imagined(tensor))
                            tensors[name] = made[id(tensor)]

    @property
    def dtype(self) -> torch.dtype:
        """That it multiplies in where it reads and trains."""
        return torch.bfloat16 if self.device.type == "cuda" or self._rounded else torch.float32

    def _base(self, dtype: torch.dtype) -> Any:
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(self.directory), dtype=dtype)

    def _imagined(self, tensor: Tensor) -> Tensor:
        alike = torch.empty(tensor.shape, dtype=tensor.dtype, device=self.device)
        if isinstance(tensor, torch.nn.Parameter):
            return torch.nn.Parameter(alike, requires_grad=tensor.requires_grad)
        return alike


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Of all that happens inside: floating point operations, seconds by the device's rates, and bytes by what
    they are of the tensors that came into being there, now (`live`) and when they were most (`peak`)."""

    def __init__(self, backbone: Imagined, rates: Rates) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._vocabulary = backbone.vocabulary
        self._heap = backbone.device.type == "cpu"
        self._rates = rates
        self._weights = {_storage(weight) for weight in backbone.model.parameters()}
        self._known = set(self._weights)
        self.live: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self.flops = 0
        self.seconds = 0.0

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """What happens inside is not counted, except for what is left of it."""
        kept = self.flops, self.seconds, self.peak
        yield
        self.flops, self.seconds, self.peak = kept

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        taken = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        given = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        fresh = sum(self._enter(func, args, taken, tensor) for tensor in given)
        moved = 0 if func.is_view else sum(tensor.nbytes for tensor in (*taken, *given))
        flops = _flops(func, args, kwargs, out)
        self.flops += flops
        self.seconds += self._rates.seconds(flops, moved, fresh, given[0].dtype if given else torch.float32)
        return out

    def _enter(self, func: Any, args: tuple[Any, ...], taken: list[Tensor], tensor: Tensor) -> int:
        """The bytes of fresh pages that it takes."""
        key, size = _storage(tensor), tensor.untyped_storage().nbytes()
        if key in self._known or any(key == _storage(other) for other in taken):
            return 0
        parts = Counter({self._part(func, args, taken, tensor): size})
        if self._heap and size < MAPPED:
            parts[KEPT] = size

        def gone() -> None:
            self._known.discard(key)
            self.live.subtract(parts)

        finalize(tensor.untyped_storage(), gone)
        self._known.add(key)
        self.live.update(parts)
        if self.live.total() > self.peak.total():
            self.peak = self.live.copy()
        return size if self._heap and size >= MAPPED else 0

    def _part(self, func: Any, args: tuple[Any, ...], taken: list[Tensor], tensor: Tensor) -> str:
        of_weights = bool(taken) and _storage(taken[0]) in self._weights
        if func is torch.ops.aten._to_copy.default and of_weights:
            return ROUNDED
        if func is torch.ops.aten.add.Tensor and of_weights:
            return MERGED
        if func is torch.ops.aten.cat.default and args[1:] == (
            -2,
        ):  # keys and values grow along their length
            return CACHE
        return LOGITS if tensor.shape[-1:] == (self._vocabulary,) else ACTIVATIONS


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _flops(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    if func is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default:
        query, key, value = args[:3]
        return int(sdpa_flop_count(query.shape, key.shape, value.shape))  # type: ignore[no-untyped-call]
    count = flop_registry.get(func.overloadpacket)
    return int(count(*args, **kwargs, out_val=out)) if count is not None else 0
