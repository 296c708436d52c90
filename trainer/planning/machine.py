"""A Machine is what a plan is for: this one, or a GPU that is not here."""

from dataclasses import dataclass

import torch

from trainer.model.device import Rates, free_memory, memory_in_use, release_memory
from trainer.planning.fake_model import FakeBackbone

CUDA_SHARE = 0.05
"""Share of a GPU's memory that CUDA itself takes."""

_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Machine:
    """A device with its rates. `free` are the bytes that a trainer may have, `framework` those of them that
    its process uses anyway. Where `timed` is False the rates are not known, and stand for no time at all."""

    name: str
    on_gpu: bool
    free: int
    framework: int
    rates: Rates
    timed: bool = True

    @classmethod
    def here(cls, backbone: FakeBackbone) -> "Machine":
        """Returns this machine, measured in about a second."""
        rates = Rates.measure(backbone.device, backbone.model.config.get_text_config().hidden_size)
        release_memory()
        framework = memory_in_use(backbone.device)
        name = torch.cuda.get_device_name() if backbone.on_gpu else "cpu"
        return cls(name, backbone.on_gpu, free_memory(backbone.device) + framework, framework, rates)

    @classmethod
    def gpu(cls, gib: float) -> "Machine":
        """Returns a GPU of so many GiB that the trainer has alone."""
        infinite = float("inf")
        rates = Rates({torch.float32: infinite, torch.bfloat16: infinite}, infinite, infinite, 0.0)
        free = int((1 - CUDA_SHARE) * gib * _GIB)
        return cls(f"a GPU of {gib:g} GiB", True, free, 0, rates, timed=False)
