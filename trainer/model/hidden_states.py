"""This module reads hidden states off a model by hooks on the layers that are used, at the last columns only.

A model that is asked for its hidden states keeps those of all layers in full width until it is through, which
for a deep model is more than all else that a pass without gradients needs.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from schemas.errors import StartError


class HiddenStates:
    """Hooks on the layers of a model's `trunk`. Layer 0 is what goes into the first layer, the embedding; the
    last one is what the trunk returns. Raises StartError for a trunk without a list of its `layers`."""

    def __init__(self, trunk: PreTrainedModel, count: int) -> None:
        decoder = trunk.get_decoder() or trunk  # and not what sees images
        lists = (each for each in decoder.modules() if isinstance(each, nn.ModuleList) and len(each) == count)
        layers = next(lists, None)
        if layers is None:
            raise StartError(f"{type(trunk).__name__} has no list of its {count} layers, to read states off.")
        self._trunk = trunk
        self.layers = layers

    @contextmanager
    def reading(self, layers: Sequence[int], columns: int) -> Iterator[dict[int, Tensor]]:
        """Inside, a pass puts the (B, columns, D) hidden states of each of `layers`, in single precision,
        into what is yielded."""
        found: dict[int, Tensor] = {}

        def keep(layer: int, states_BTD: Tensor) -> None:
            found[layer] = states_BTD[:, -columns:].to(torch.float32, copy=True)

        def before(layer: int) -> Any:
            def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                keep(layer, args[0] if args else kwargs["hidden_states"])

            return hook

        with ExitStack() as hooks:
            for layer in layers:
                if layer < len(self.layers):
                    hook = self.layers[layer].register_forward_pre_hook(before(layer), with_kwargs=True)
                else:
                    hook = self._trunk.register_forward_hook(
                        lambda _module, _args, output, layer=layer: keep(layer, output[0])
                    )
                hooks.callback(hook.remove)
            yield found
