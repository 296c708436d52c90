"""UpperLayers runs the base's upper layers alone, with a LoRA of their own, on the hidden states below them.

The lower layers are frozen and the same for every adapter, so a reply's states there are computed once and
serve each step of training. A row is a reply without its prompt, which its states know already. The state of
a text's first token stands before it, since attention rests on that token where it has nothing to read (Xiao
et al. 2024).
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor

from trainer.model.backbone import Backbone
from trainer.model.lora_inputs import keep_inputs_once
from trainer.model.tokenizer import Messages

ADAPTER = "heads"
"""The adapter's name, beside the policy's."""

GREETING: Messages = [{"role": "user", "content": "Hello! Who are you?"}]
"""A prompt whose first token begins every row, and on which the layers are compared with the whole base."""

TOLERANCE = 0.05
"""Relative distance of hidden states that rounding to bfloat16 explains."""


class UpperLayers:
    """The layers above the hidden states of `layer` (1 is behind the first layer). The LoRA's A matrices are
    drawn with `seed`, its B matrices are zero."""

    def __init__(self, backbone: Backbone, layer: int, rank: int, seed: int) -> None:
        self.layer, self.device = layer, backbone.device
        self._backbone = backbone
        layers = backbone.layers
        self._lower, self._given = layers[:layer], layers[layer - 1]
        names = {each: name for name, each in backbone.model.base_model.model.named_modules()}
        linear = [each for upper in layers[layer:] for each in upper.modules() if isinstance(each, LoraLayer)]
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=[names[each] for each in linear])
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            backbone.model.add_adapter(ADAPTER, config)
        backbone.model.set_adapter("default")
        keep_inputs_once(backbone.model)
        named = backbone.model.named_parameters()
        self.parameters = [each for name, each in named if f".{ADAPTER}." in name]
        with torch.no_grad(), backbone.reference():
            first_11 = torch.tensor([backbone.render(GREETING)[:1]], device=self.device)
            found = backbone.trunk(input_ids=first_11, output_hidden_states=True, use_cache=False)
        self._first_11D = found.hidden_states[layer]

    def __call__(self, states_BRD: Tensor, mask_BR: Tensor) -> Tensor:
        """Returns the (B, R, D) last hidden states, given those below and the mask of the tokens that are
        read."""
        first_B1D = self._first_11D.expand(len(states_BRD), -1, -1)
        states_BTD = torch.cat([first_B1D, states_BRD.to(first_B1D)], 1)
        mask_BT = torch.cat([torch.ones_like(mask_BR[:, :1]), mask_BR], 1).long()
        positions_BT = mask_BT.cumsum(1) - 1
        backbone = self._backbone
        with (
            self._lower_skipped(states_BTD),
            backbone.adapted(ADAPTER),
            backbone.training_mode(*mask_BT.shape),
            torch.autocast(backbone.device.type, torch.bfloat16, enabled=backbone.bf16_autocast),
        ):
            found = backbone.trunk(
                inputs_embeds=states_BTD, attention_mask=mask_BT, position_ids=positions_BT, use_cache=False
            )
        for each in self.parameters:  # which PEFT froze with the adapter, and their gradient comes now
            each.requires_grad_(torch.is_grad_enabled())
        last_BRD: Tensor = found.last_hidden_state[:, 1:].float()
        return last_BRD

    @torch.no_grad()
    def reproduces_base(self) -> bool:
        """Whether they end, with a LoRA that is still zero, in the states in which the whole base ends. Those
        of a base that does more between its layers than to hand on states do not."""
        backbone = self._backbone
        tokens_1T = torch.tensor([backbone.render(GREETING)], device=self.device)
        with (
            backbone.reference(),
            torch.autocast(backbone.device.type, torch.bfloat16, enabled=backbone.bf16_autocast),
        ):
            found = backbone.trunk(input_ids=tokens_1T, output_hidden_states=True, use_cache=False)
        whole_1RD = found.last_hidden_state[:, 1:].float()
        states_1RD = found.hidden_states[self.layer][:, 1:]
        apart_1RD = self(states_1RD, torch.ones(states_1RD.shape[:2], device=self.device))
        return float((apart_1RD - whole_1RD).norm() / whole_1RD.norm()) < TOLERANCE

    def remove(self) -> None:
        """Removes the adapter from the model."""
        self._backbone.model.delete_adapter(ADAPTER)

    @contextlib.contextmanager
    def _lower_skipped(self, states_BTD: Tensor) -> Iterator[None]:
        """Inside, the lower layers do nothing but hand on these states."""
        for layer in self._lower:
            layer.forward = _hand_on
        self._given.forward = lambda *_, **__: states_BTD
        try:
            yield
        finally:
            for layer in self._lower:
                del layer.forward


def _hand_on(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states
