"""A taste model for tests: everybody's mean is 0, and its direction is whether a reply's tokens are even."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig

from schemas.policies import base_digest
from schemas.taste_model import METADATA, TASTES, TasteHeader

_LENGTHS = [8.0, 16.0, 32.0]


def write_tastes(base: Path, directory: Path) -> None:
    """Writes the file into a policy's directory."""
    config = AutoConfig.from_pretrained(base)
    sizes = {"mean": config.hidden_size, "peak": config.hidden_size, "last": config.hidden_size}
    tensors = {"bias": torch.zeros(2, 2)}
    for name, size in (sizes | {"length": len(_LENGTHS)}).items():
        tensors |= {f"{name}.mean": torch.zeros(size), f"{name}.std": torch.ones(size)}
        tensors[f"{name}.weights"] = torch.zeros(2, 2, size)
    vocabulary = torch.arange(config.vocab_size)
    parity = torch.where(vocabulary % 2 == 0, 0.4, -0.4)
    tensors["tokens.vocabulary"] = vocabulary
    tensors["tokens.weights"] = torch.stack([torch.zeros_like(parity), parity]).expand(2, 2, -1).contiguous()
    header = TasteHeader(
        base_digest=base_digest(base), directions=1, members=2, layers=[0], think_ids=None,
        lengths=_LENGTHS, softness=0.15, max_tokens=1024, max_magnitude=60_000.0, ranking_scale=1.0,
        caution=0.3,
    )  # fmt: skip
    save_file(tensors, directory / TASTES, metadata={METADATA: header.model_dump_json()})


def evenness(tokens: list[int]) -> int:
    """Returns how many more of a reply's distinct tokens are even than odd."""
    return sum(1 if token % 2 == 0 else -1 for token in set(tokens))
