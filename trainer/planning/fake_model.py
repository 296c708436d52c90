"""FakeBackbone is a backbone on torch's fake tensors, which have a shape, a type and a device but no memory.

The model is built from its configuration on the meta device and then given fake tensors, so the trainer's own
code runs on it: attention, autocast, gradient checkpointing and PEFT do what they would do. Where there is no
GPU, fake tensors of a CPU stand for those of one: types, shapes and fused attention are the same.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM

from schemas.settings import RLSettings
from trainer.model.backbone import Backbone
from trainer.model.decoding import plain_product


class FakeBackbone(Backbone):
    """It computes shapes only, and works only inside `mode`: as on this machine, or as on a GPU."""

    _product = staticmethod(plain_product)

    def __init__(self, directory: Path, rl: RLSettings, on_gpu: bool | None = None) -> None:
        self._on_gpu = torch.cuda.is_available() if on_gpu is None else on_gpu
        with torch.device("meta"):  # with gradient checkpointing prepared, so that it can be tried
            super().__init__(directory, rl.model_copy(update={"gradient_checkpointing": None}))
        self.gradient_checkpointing = rl.gradient_checkpointing
        self.mode = FakeTensorMode()
        made: dict[int, Tensor] = {}
        with self.mode:
            for module in self.model.modules():
                for tensors in (module._parameters, module._buffers):
                    for name, tensor in tensors.items():
                        if tensor is not None:
                            made.setdefault(id(tensor), self._fake(tensor))
                            tensors[name] = made[id(tensor)]

    @property
    def on_gpu(self) -> bool:
        return self._on_gpu

    @property
    def compute_dtype(self) -> torch.dtype:
        """The type of the matrix products in scoring and training."""
        return torch.bfloat16 if self.on_gpu or self.bf16_autocast else torch.float32

    def _load_base(self, dtype: torch.dtype) -> Any:
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(self.directory), dtype=dtype)

    def _fake(self, tensor: Tensor) -> Tensor:
        fake = torch.empty(tensor.shape, dtype=tensor.dtype, device=self.device)
        if isinstance(tensor, torch.nn.Parameter):
            return torch.nn.Parameter(fake, requires_grad=tensor.requires_grad)
        return fake
