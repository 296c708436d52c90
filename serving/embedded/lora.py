"""LoRA adapters (Hu et al. 2021) over the frozen linear layers of a base: W·x + B·A·x for the adapter in use.

PEFT's layers do the same in seven operations, and walk over the model to change the adapter. These need two
operations, none for an adapter of zeros, and one assignment.
"""

import re
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import linear
from transformers import PreTrainedModel

from schemas.errors import HearkenError
from schemas.policies import CONFIG, WEIGHTS

_KEY = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<matrix>[AB])\.weight")
_SUPPORTED = {
    "auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode", "init_lora_weights",
    "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout", "peft_type", "peft_version", "r",
    "revision", "target_modules", "task_type", "use_rslora",
}  # fmt: skip


class AdapterError(HearkenError):
    """A directory cannot be served as an adapter of this base. The engine answers 400 with the message."""


@dataclass(frozen=True, slots=True)
class Delta:
    """The matrices of one layer: `down` is A, (rank, in), and `up` is the transpose of the scaled B,
    (rank, out)."""

    down: Tensor
    up: Tensor


@dataclass(slots=True)
class Active:
    """The slot of the adapter in use, which the layers of a model share."""

    slot: str | None = None


class LoraLinear(torch.nn.Module):
    """A frozen linear layer, with `deltas` by adapter slot. `packed` are bfloat16 weights in the order
    in which oneDNN multiplies them (sums are float32); inputs, outputs and deltas are float32 then."""

    def __init__(self, base: torch.nn.Linear, active: Active, *, pack: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        self.bias = base.bias
        self.deltas: dict[str | None, Delta] = {}
        self._active = active
        if pack:
            self.packed = torch.ops.mkldnn._reorder_linear_weight(base.weight.detach(), None)
        else:
            self.weight = base.weight
        self.forward = self._forward_packed if pack else self._forward

    def _forward(self, x: Tensor) -> Tensor:
        return self._adapted(x, linear(x, self.weight, self.bias))

    def _forward_packed(self, x: Tensor) -> Tensor:
        out = torch.ops.mkldnn._linear_pointwise(x.bfloat16(), self.packed, None, "none", [], "").float()
        return self._adapted(x, out if self.bias is None else out.add_(self.bias))

    def _adapted(self, x: Tensor, out: Tensor) -> Tensor:
        delta = self.deltas.get(self._active.slot)
        if delta is not None:
            down = linear(x, delta.down).flatten(end_dim=-2)
            out.view(-1, out.shape[-1]).addmm_(down, delta.up)
        return out


class Adapters:
    """The adapters of one base, whose linear layers are replaced. With `pack`, a base in bfloat16 becomes
    float32 but for the matrices of its layers. The head does, since logits of eight bits would move
    log-probabilities by several hundredths of a nat."""

    def __init__(self, base: PreTrainedModel, *, pack: bool) -> None:
        self._active = Active()
        self._layers: dict[str, LoraLinear] = {}
        for name, module in list(base.named_modules()):
            if type(module) is torch.nn.Linear:
                inner = module is not base.get_output_embeddings()
                self._layers[name] = LoraLinear(module, self._active, pack=pack and inner)
                parent, _, attribute = name.rpartition(".")
                setattr(base.get_submodule(parent), attribute, self._layers[name])
        if pack:
            base.float()
        self._like = base.get_output_embeddings().weight

    def load(self, slot: str, directory: Path) -> None:
        """Loads an adapter in PEFT's layout. Raises AdapterError, and then nothing has changed."""
        try:
            config, weights = _read(directory)
            deltas = self._deltas(directory, config, weights)
        except AdapterError:
            raise
        except Exception as error:
            raise AdapterError(f"{directory} cannot be read: {error}") from error
        for name, delta in deltas.items():
            self._layers[name].deltas[slot] = delta

    def unload(self, slot: str) -> None:
        for layer in self._layers.values():
            layer.deltas.pop(slot, None)

    def use(self, slot: str | None) -> None:
        """Makes every following forward pass use this adapter; None: the base alone."""
        self._active.slot = slot

    def _deltas(self, directory: Path, config: LoraConfig, weights: dict[str, Tensor]) -> dict[str, Delta]:
        """Returns each layer's delta, without those of zeros. Raises AdapterError where the weights are not
        those that the configuration gives to this base."""
        expected = {name for name in self._layers if check_target_module_exists(config, name)}
        keys = {f"base_model.model.{name}.lora_{matrix}.weight" for name in expected for matrix in "AB"}
        if not keys or keys != weights.keys():
            strange = next(iter(sorted(keys ^ weights.keys())), "none at all")
            raise AdapterError(f"{directory} does not fit this base: its modules are others: {strange}")
        scaling = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
        found = {}
        for name in expected:
            down, up = (weights[f"base_model.model.{name}.lora_{matrix}.weight"] for matrix in "AB")
            layer = self._layers[name]
            shapes = (config.r, layer.in_features), (layer.out_features, config.r)
            if (down.shape, up.shape) != shapes:
                raise AdapterError(
                    f"{directory} does not fit this base: {name} has matrices of shapes {tuple(down.shape)} "
                    f"and {tuple(up.shape)} instead of {shapes[0]} and {shapes[1]}"
                )
            if bool(up.any()):
                found[name] = Delta(down.to(self._like), (up * scaling).to(self._like).T.contiguous())
        return found


def _read(directory: Path) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Returns configuration and weights, from safetensors only: nothing is ever unpickled."""
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            raise AdapterError(f"{directory} cannot be read: there is no {name}")
    config = PeftConfig.from_pretrained(str(directory))
    if not isinstance(config, LoraConfig) or config.init_lora_weights not in (True, False, "gaussian"):
        raise AdapterError(f"{directory}: only LoRA adapters that leave the base weights alone share a base")
    plain = LoraConfig()
    special = [
        field.name
        for field in fields(LoraConfig)
        if field.name not in _SUPPORTED and getattr(config, field.name) != getattr(plain, field.name)
    ]
    if special:
        raise AdapterError(f"{directory}: the embedded engine does not support {', '.join(special)} of LoRA")
    return config, load_file(directory / WEIGHTS)
