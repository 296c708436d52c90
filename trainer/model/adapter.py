"""This module writes adapters in PEFT's layout, and the probe that verifies that an engine has loaded one."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from safetensors.torch import save_file

from schemas.policies import CONFIG, WEIGHTS, Probe
from trainer.model.backbone import Backbone

GREETING = "Hello! Who are you, and what can you do for me today?"

_PROBE = [{"role": "user", "content": GREETING}]
_PROBE_REPLY = "Hello! I am glad that you ask. I can chat with you, answer questions, and help you think."


def probe(backbone: Backbone) -> Probe:
    """Returns the log-probabilities that an engine with this adapter must reproduce, and the base's."""
    token_ids = backbone.render(_PROBE) + backbone.encode_reply(_PROBE_REPLY)
    count = len(token_ids) - 1
    batch = backbone.pad([token_ids[:1]], [token_ids[1:]])
    with torch.no_grad(), backbone.full_precision():
        logprobs = backbone.logprobs_BR(batch)[0, :count].tolist()
        with backbone.reference():
            base_logprobs = backbone.logprobs_BR(batch)[0, :count].tolist()
    return Probe(token_ids=token_ids, logprobs=logprobs, base_logprobs=base_logprobs)


def save_adapter(backbone: Backbone, directory: Path) -> None:
    """Writes the current adapter in PEFT's layout into a new directory; inside `Backbone.reference` the zero
    adapter, which answers as the base."""
    directory.mkdir(parents=True)
    save_weights(backbone, directory / WEIGHTS)
    (directory / CONFIG).write_text(json.dumps(_peft_config(backbone), indent=2, sort_keys=True) + "\n")


def save_weights(backbone: Backbone, path: Path) -> None:
    """Writes the weights, as `save_adapter`; equal weights give equal bytes."""
    state = get_peft_model_state_dict(backbone.model, save_embedding_layers=False)
    if backbone.is_reference:
        state |= {name: torch.zeros_like(tensor) for name, tensor in state.items() if "lora_B" in name}
    save_file(
        {name: tensor.float().contiguous().cpu() for name, tensor in sorted(state.items())},
        path,
        metadata={"format": "pt"},
    )


def _peft_config(backbone: Backbone) -> dict[str, Any]:
    """Returns PEFT's configuration for inference, with its sets in a fixed order."""
    config = backbone.model.peft_config["default"].to_dict()
    config["inference_mode"] = True
    config["base_model_name_or_path"] = backbone.directory.name
    return {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
