"""An optimizer step is AdamW (Loshchilov and Hutter 2019) with LoRA+'s rates within a trust region."""

import contextlib
from collections.abc import Iterator, Sequence

import torch

from trainer.data.hyperparameters import Hyperparameters
from trainer.model.backbone import Backbone
from trainer.model.device import release_memory
from trainer.rl.trust_region import TrustRegion

BETAS = (0.6, 0.95)
"""AdamW's momenta: a round has few steps, which the usual 0.9 would average away."""

LORA_B_LR_RATIO = 2.0
"""LoRA+ (Hayou, Ghosh and Yu 2024): B begins at zero and learns faster than A, by this factor."""

MAX_GRADIENT_NORM = 1.0


class Optimizer:
    """The optimizer of one stage of a round, whose steps learn from `samples` replies each."""

    def __init__(self, backbone: Backbone, rl: Hyperparameters, samples: int) -> None:
        self._backbone = backbone
        lora_a, lora_b = backbone.lora_parameters()
        groups = [{"params": lora_a, "lr_ratio": 1.0}, {"params": lora_b, "lr_ratio": LORA_B_LR_RATIO}]
        self._adamw = torch.optim.AdamW(groups, lr=rl.learning_rate, betas=BETAS, weight_decay=0.0)
        self.trust_region = TrustRegion(backbone, rl, samples)

    @contextlib.contextmanager
    def within_trust_region(
        self, prompts: Sequence[list[int]], replies: Sequence[list[int]], factor: float
    ) -> Iterator[None]:
        """Inside, steps have `factor` times the learning rate, and together they stay in the trust region. It
        is measured on the policy's own replies to these prompts."""
        self.trust_region.begin(prompts, replies)
        self.set_rate(factor)
        yield
        self.trust_region.end(factor)

    def set_rate(self, factor: float) -> None:
        """Gives the steps that follow `factor` times the learning rate."""
        for group in self._adamw.param_groups:
            group["lr"] = self.trust_region.learning_rate * factor * group["lr_ratio"]

    def step(self) -> None:
        """Takes a step along the gradient."""
        backbone = self._backbone
        backbone.group.all_reduce_sum([each.grad for each in backbone.trainable() if each.grad is not None])
        torch.nn.utils.clip_grad_norm_(backbone.trainable(), MAX_GRADIENT_NORM)
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        release_memory()

    def slow_down(self) -> None:
        """Halves the learning rate after a step that was taken back, and forgets AdamW's moments of it."""
        self.trust_region.learning_rate /= 2
        self._adamw.state.clear()
