"""FakeBackbone is a backbone on torch's fake tensors, which have a shape, a type and a device but no memory.

The model is built from its configuration on the meta device and then given fake tensors, so the trainer's own
code runs on it: attention, autocast, gradient checkpointing and PEFT do what they would do.
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
    """It computes shapes only, and works only inside `mode`."""

    _product = staticmethod(plain_product)

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
                            made.setdefault(id(tensor), self._fake(tensor))
                            tensors[name] = made[id(tensor)]

    @property
    def compute_dtype(self) -> torch.dtype:
        """The type of the matrix products in scoring and training."""
        return torch.bfloat16 if self.device.type == "cuda" or self.bf16_autocast else torch.float32

    def _load_base(self, dtype: torch.dtype) -> Any:
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(self.directory), dtype=dtype)

    def _fake(self, tensor: Tensor) -> Tensor:
        fake = torch.empty(tensor.shape, dtype=tensor.dtype, device=self.device)
        if isinstance(tensor, torch.nn.Parameter):
            return torch.nn.Parameter(fake, requires_grad=tensor.requires_grad)
        return fake
